"use strict";
// Lays "after" over "before"; one slider cuts every plane at the same part of its width. Without this, both stand side by side.
document.documentElement.classList.add("scripted");
// On a phone the details are folded up below the verdict and the pictures; on paper all of them are seen.
const parts = [...document.querySelectorAll("details.part")];
if (matchMedia("screen and (max-width: 34rem)").matches) for (const part of parts) part.open = false;
let folded = [];
addEventListener("beforeprint", () => {
  folded = parts.filter((part) => !part.open);
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of folded) part.open = false;
});
for (const pair of document.querySelectorAll(".pair.both")) {
  const figure = pair.parentElement;
  const range = figure.querySelector("input");
  const button = figure.querySelector("button.lay");
  const light = figure.querySelector("button.light");
  const cut = (percent) => {
    range.value = percent;
    pair.style.setProperty("--cut", percent + "%");
  };
  const join = (joined) => {
    pair.classList.toggle("joined", joined);
    button.textContent = joined ? "Side by side" : "Slider";
    range.disabled = !joined;
  };
  const follow = (event) => {
    if (!pair.classList.contains("joined") || (event.pointerType !== "mouse" && !event.buttons)) return;
    const boxes = [...pair.querySelectorAll(".after image")].map((image) => image.getBoundingClientRect());
    const { clientX: x, clientY: y } = event;
    const box = boxes.find((b) => b.left <= x && x <= b.right && b.top <= y && y <= b.bottom);
    if (!box) return;
    cut(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
  };
  range.addEventListener("input", () => cut(range.value));
  if (light) {
    const badge = pair.querySelector(".before b");
    light.addEventListener("click", () => {
      const own = pair.classList.toggle("brighter");
      badge.textContent = own ? "before, brighter" : "before";
      light.textContent = own ? "Same contrast" : "Brighten before";
    });
  }
  button.addEventListener("click", () => join(!pair.classList.contains("joined")));
  pair.addEventListener("pointermove", follow);
  pair.addEventListener("pointerdown", follow);
  cut(35);
  join(true);
}
