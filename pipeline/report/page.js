"use strict";
for (const slider of document.querySelectorAll(".slider")) {
  const list = (name) => slider.dataset[name].split(" ");
  const names = list("names"), kept = list("kept").map(Number), stored = list("stored").map(Number), places = list("places");
  const start = Number(slider.dataset.start), input = slider.querySelector("input"), shade = document.getElementById(slider.dataset.shade);
  const above = shade.classList.contains("above");
  const show = () => {
    const i = Number(input.value), change = kept[i] - kept[start], again = kept[i] - stored[i];
    slider.querySelector(".value").textContent = names[i];
    slider.querySelector(".side").classList.toggle("idle", names[i] === "off");
    const words = [`${kept[i]} kept`];
    if (change) words.push(`${change > 0 ? "+" : "\u2212"}${Math.abs(change)}`);
    if (again > 0) words.push(`${again} to extract again`);
    slider.querySelector(".count").textContent = words.join(", ");
    shade.classList.toggle("none", names[i] === "off");
    shade.style[above ? "left" : "width"] = `${places[i]}%`;
  };
  input.value = start;
  input.addEventListener("input", show);
  input.addEventListener("dblclick", () => { input.value = start; show(); });
  show();
}
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const video of document.querySelectorAll("video")) {
    video.autoplay = false;
    video.controls = true;
    video.pause();
  }
}
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
