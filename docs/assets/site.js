// Whatever scrolls sideways is to be reached by keys, too, and landmarks have names.
document$.subscribe(() =>
  requestAnimationFrame(() => {
    const wide = ".arithmatex, .md-typeset__scrollwrap, .md-typeset p:has(> img)";
    for (const element of document.querySelectorAll(wide)) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    }
    const landmarks = document.querySelectorAll(".md-code__nav");
    landmarks.forEach((nav, k) => (nav.ariaLabel = `Block of code ${k + 1}`));
  }),
);
