// Shows the panels of a video as pictures of their own, which wrap on narrow screens, over a bar with play, single steps and time.
// Without it the page shows the video whole, under the browser's own controls.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  play: "M7 5l12 7-12 7z",
  pause: "M6 5h4v14H6zM14 5h4v14h-4z",
  back: "M16 5v14l-9-7zM5 5h2v14H5z",
  on: "M8 5v14l9-7zM17 5h2v14h-2z",
};

function made(tag, parent, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  parent.append(element);
  return element;
}

function button(bar, name, title, press) {
  const pressed = made("button", bar, { type: "button", title, ariaLabel: title, onclick: press });
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.append(document.createElementNS(SVG, "path"));
  pressed.append(icon);
  pressed.show = (which) => icon.firstChild.setAttribute("d", ICONS[which]);
  pressed.show(name);
  return pressed;
}

function player(figure) {
  const { seen, frames, fps, hz, wide, high, gap } = Object.fromEntries(
    Object.entries(figure.dataset).map(([name, text]) => [name, Number(text)]));
  const video = figure.querySelector("video"), labels = [...figure.querySelectorAll(".panels span")];
  const screens = made("div", figure, { className: "screens" });
  screens.style.setProperty("--panels", labels.length);
  const pictures = labels.map((label) => {
    const screen = made("div", screens);
    screen.append(label);
    return made("canvas", screen, { width: wide, height: high }).getContext("2d");
  });
  figure.prepend(screens);
  figure.querySelector(".panels").remove();
  video.removeAttribute("controls");
  video.className = "source";

  const bar = made("div", figure, { className: "bar" });
  screens.after(bar);
  let wanted = !matchMedia("(prefers-reduced-motion: reduce)").matches, visible = false;
  const toggle = button(bar, "pause", "play or pause", () => { wanted = !wanted; follow(); });
  button(bar, "back", "one frame back", () => step(-1));
  button(bar, "on", "one frame on", () => step(1));
  const slider = made("input", bar, { type: "range", min: 1, max: frames, step: 1, value: 1, ariaLabel: "frame" });
  slider.style.setProperty("--seen", `${(100 * (seen - 0.5)) / (frames - 1)}%`);
  slider.oninput = () => { wanted = false; follow(); show(slider.value - 1); };
  const speed = hz > fps && made("button", bar, { type: "button", className: "speed", title: "speed", textContent: "slow" });
  if (speed) speed.onclick = () => {
    video.playbackRate = video.playbackRate === 1 ? hz / fps : 1;
    speed.textContent = video.playbackRate === 1 ? "slow" : "real time";
  };
  const place = made("output", bar);

  const frame = () => Math.min(frames - 1, Math.floor(video.currentTime * fps + 1e-3));
  const show = (number) => { video.currentTime = (number + 0.5) / fps; };
  const step = (by) => { wanted = false; follow(); show((frame() + by + frames) % frames); };

  function follow() {
    toggle.show(wanted ? "pause" : "play");
    if (wanted && visible) video.play().catch(() => {});
    else video.pause();
  }
  function draw() {
    pictures.forEach((picture, i) => picture.drawImage(video, i * (wide + gap), 0, wide, high, 0, 0, wide, high));
    const now = frame(), ahead = now + 1 - seen, after = hz ? `, ${(ahead / hz).toFixed(2)} s ahead` : "";
    slider.value = now + 1;
    place.textContent = ahead > 0 ? `predicted ${ahead} of ${frames - seen}${after}` : `seen ${now + 1} of ${seen}`;
  }
  let ticking = false;
  function tick() {
    draw();
    ticking = !video.paused;
    if (ticking) requestAnimationFrame(tick);
  }
  video.addEventListener("playing", () => ticking || tick());
  for (const event of ["loadeddata", "seeked"]) video.addEventListener(event, draw);
  if (video.readyState > 1) draw();
  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; follow(); }).observe(figure);
}

document.querySelectorAll("figure[data-frames]").forEach(player);
