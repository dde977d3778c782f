() => {
  const wide = document.documentElement.scrollWidth > window.innerWidth ? ["the page is wider than the screen"] : [];
  const isCut = (element) => {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
    return text && hides && element.clientWidth > 1 && element.scrollWidth > element.clientWidth + 1;
  };
  const cut = [...document.body.querySelectorAll("*")].filter(isCut);
  const missing = [...document.images].filter((image) => !image.complete || image.naturalWidth === 0);
  return [
    ...wide,
    ...cut.map((element) => `cut: ${element.tagName} ${element.textContent.trim().slice(0, 60)}`),
    ...missing.map((image) => `no image: ${image.alt || image.src.slice(0, 80)}`),
  ];
}
