"use strict";
// Lays "after" over "before" with a slider between them. Without this, both stand side by side.
document.documentElement.classList.add("scripted");
for (const pair of document.querySelectorAll(".pair.both")) {
  const figure = pair.parentElement;
  const range = figure.querySelector("input");
  const button = figure.querySelector("button");
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
    const box = pair.getBoundingClientRect();
    cut(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
  };
  range.addEventListener("input", () => cut(range.value));
  button.addEventListener("click", () => join(!pair.classList.contains("joined")));
  pair.addEventListener("pointermove", follow);
  pair.addEventListener("pointerdown", follow);
  cut(35);
  join(true);
}
