// What the theme leaves out for people who use a keyboard or a reader of the screen.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll("pre, .formula, .table-wrapper")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // so that keys can scroll it
  }
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.ariaLevel = "2";
  for (const corner of document.querySelectorAll("th:empty, th:has(> p:only-child:empty)")) corner.outerHTML = "<td></td>";
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "All pages");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
  const up = document.querySelector("a.back-to-top");
  if (up) document.querySelector("article")?.append(up);
});
