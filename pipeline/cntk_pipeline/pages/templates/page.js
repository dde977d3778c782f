"use strict";
// A figure is shown larger where it is clicked; Escape or a click closes it.
for (const button of document.querySelectorAll("figure button")) {
  button.addEventListener("click", () => {
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-label", button.getAttribute("aria-label"));
    dialog.append(button.querySelector("img").cloneNode());
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  });
}
