"use strict";
// Buttons, and the keys 1 to 3, say what the features are coloured by.
const features = document.getElementById("features");
const buttons = [...document.querySelectorAll(".choices button")];
for (const button of buttons) {
  button.addEventListener("click", () => {
    features.src = button.dataset.picture;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
  });
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  buttons[Number(event.key) - 1]?.click();
});
