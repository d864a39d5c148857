// @ts-check
// The socket, the pictures, and what is measured of them.

import { Controls } from "/controls.js";

const at = (id) => /** @type {any} */ (document.getElementById(id));
const RETRIES = 120, HERE_EVERY = 20000, KEPT = 300, LATE = 2000;
let socket = null, controls = null, about = null, state = {}, tries = 0, resume = false;
let delays = [], times = [], errors = [];

function say(message) { if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); }

function connect() {
  const own = new WebSocket(`ws://${location.host}/drive`);
  own.binaryType = "arraybuffer";
  own.onmessage = ({ data }) => { if (typeof data === "string") heard(JSON.parse(data)); else picture(data); };
  own.onclose = ({ code, reason }) => {
    if (own !== socket) return;
    controls?.release();
    lost(reason || { 1006: "the server does not answer", 1012: "the server stops" }[code] || "it ended");
    if ((code === 1006 || code === 1012) && tries++ < RETRIES) setTimeout(() => { if (own === socket) retry(); }, 1000);
  };
  socket = own;
}

function lost(why) {
  at("told").textContent = `Not connected: ${why}.`;
  at("banner").hidden = false;
}

async function retry() { // a server that was started anew knows no earlier browser
  const answer = await fetch("/icon.svg").catch(() => null);
  if (answer?.status === 403) lost("the server was started anew; open the link that its terminal shows now");
  else connect();
}

function heard(message) {
  switch (message.say) {
    case "hello":
      tries = 0;
      at("banner").hidden = true;
      about = message;
      at("run").textContent = about.run;
      at("facts").textContent = `${about.robot}, ${about.names.length} states at ${about.hz} Hz; ${about.size[1]}×${about.size[0]} px; ${about.device}${about.twin ? "; a twin foresees the states" : ""}`;
      at("clips").textContent = `0 to ${about.clips - 1}`;
      at("clip").max = about.clips - 1;
      controls = new Controls(at("controls"), about, command);
      at("overlay").querySelector("[value=spread]").hidden = !about.draws;
      at("overlay").onchange();
      break;
    case "state":
      if (message.clip !== state.clip || (message.follow && !state.follow)) { errors = []; curve(); }
      state = message;
      at("pause").textContent = state.playing ? "Pause" : "Play";
      at("record").setAttribute("aria-pressed", String(state.recording));
      at("record").textContent = state.recording ? "Stop recording" : "Record";
      at("beside").textContent = state.beside === "simulator" ? "Simulator" : "Recording";
      at("against").textContent = state.beside;
      if (document.activeElement !== at("clip")) at("clip").value = state.clip;
      at("status").textContent = state.note || "";
      break;
    default:
      at("status").textContent = message.text || "";
  }
}

function command(target) { // the newest alone, no more than one every drawn frame
  say({ do: "command", at: performance.now(), target });
}

async function picture(data) {
  const size = new DataView(data).getUint32(0, true);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  let place = 4 + size;
  const images = facts.sizes.map((bytes) => { place += bytes; return bytes ? new Blob([new Uint8Array(data, place - bytes, bytes)], { type: "image/jpeg" }) : null; });
  try {
    const [dream, truth, doubt] = await Promise.all(images.map((image) => image && createImageBitmap(image)));
    draw(at("dream"), dream);
    if (truth) draw(at("truth"), truth); else clear(at("truth"));
    overlay(doubt, facts);
  } finally {
    say({ do: "shown" });
  }
  const now = performance.now();
  times.push(now);
  if (facts.stamp !== null) delays = [...delays.slice(1 - KEPT), now - facts.stamp];
  controls?.show(facts.states, facts.follow);
  const held = facts.held && !facts.follow ? ` · ${facts.held} of the states at the end of their range` : "";
  at("driven").textContent = `${facts.follow ? "follows the recorded states" : "driven by you"}, ${(facts.frame / about.hz).toFixed(1)} s${held}`;
  at("compared").textContent = !images[1] ? "has ended" : state.beside === "simulator" ? (facts.follow ? "does what was recorded" : "does what you say") : facts.follow ? "the same states" : "its own states, not yours";
  if (facts.psnr !== null) { errors.push([facts.frame, facts.psnr]); at("psnr").textContent = facts.psnr.toFixed(1); curve(); }
  else if (!facts.follow) at("psnr").textContent = "– (driven)";
  measured(facts.dropped);
}

const pen = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

function draw(canvas, image) {
  if (canvas.width !== image.width || canvas.height !== image.height) [canvas.width, canvas.height] = [image.width, image.height];
  pen(canvas).drawImage(image, 0, 0);
  image.close();
}

function clear(canvas) { pen(canvas).clearRect(0, 0, canvas.width, canvas.height); }

const FULL_SCALE = 64; // levels of error that are shown brightest
const RAMP = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // inferno, as in the report

function overlay(doubt, facts) { // over the dream, the brighter and more opaque the more it doubts or errs
  const canvas = at("doubts"), dream = at("dream"), kind = at("overlay").value;
  const shown = kind === "error" ? facts.psnr !== null : doubt;
  at("overlaid").textContent = "";
  if (!shown) return clear(canvas);
  if (kind !== "error") draw(canvas, doubt); else [canvas.width, canvas.height] = [dream.width, dream.height];
  const pixels = pen(canvas).getImageData(0, 0, canvas.width, canvas.height), level = pixels.data;
  let sum = 0;
  if (kind === "error") {
    const [own, other] = [dream, at("truth")].map((each) => pen(each).getImageData(0, 0, canvas.width, canvas.height).data);
    for (let i = 0; i < level.length; i += 4) {
      const off = Math.hypot(own[i] - other[i], own[i + 1] - other[i + 1], own[i + 2] - other[i + 2]) / Math.sqrt(3);
      sum += off;
      level[i] = 255 * off / FULL_SCALE; // clamped
    }
  }
  for (let i = 0; i < level.length; i += 4) {
    const place = level[i] / 256 * (RAMP.length - 1), below = Math.floor(place), part = place - below;
    for (let c = 0; c < 3; c++) level[i + c] = RAMP[below][c] * (1 - part) + RAMP[below + 1][c] * part;
    level[i + 3] = Math.min(235, 85 * place); // what is right stays clear
  }
  pen(canvas).putImageData(pixels, 0, 0);
  at("overlaid").textContent = kind !== "error" ? ` · ${facts.doubt[0]}, mean ${facts.doubt[1].toFixed(3)}` : ` · error, mean ${(4 * sum / level.length).toFixed(1)} of 255 levels, palest ${FULL_SCALE}`;
}

function measured(dropped) {
  const now = performance.now();
  while (times.length > 1 && times[0] < now - 2000) times.shift();
  const seconds = times.length > 1 ? (now - times[0]) / 1000 : 0;
  const rate = seconds ? `${((times.length - 1) / seconds).toFixed(1)} frames/s` : "–";
  const sorted = [...delays].sort((a, b) => a - b);
  const q = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))].toFixed(0);
  const delay = sorted.length ? `p50 ${q(0.5)} ms, p95 ${q(0.95)} ms over ${sorted.length}` : "move a control";
  at("measured").textContent = `${rate} · input to picture: ${delay} · ${dropped} frames not sent`;
}

function curve() {
  const canvas = at("curve"), context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  [canvas.width, canvas.height] = [canvas.clientWidth * devicePixelRatio || 300, canvas.clientHeight * devicePixelRatio || 70];
  if (errors.length < 2) return;
  const values = errors.map(([, value]) => value), most = Math.max(...values), least = Math.min(...values), last = errors.at(-1)[0];
  const span = Math.max(2, most - least), pad = 16 * devicePixelRatio, height = canvas.height - 2 * pad;
  context.strokeStyle = style.getPropertyValue("--blue");
  context.lineWidth = 2 * devicePixelRatio;
  context.beginPath();
  for (const [frame, value] of errors) context.lineTo(((frame - errors[0][0]) / (last - errors[0][0])) * canvas.width, pad + (1 - (value - least) / span) * height);
  context.stroke();
  context.fillStyle = style.getPropertyValue("--soft");
  context.font = `${12 * devicePixelRatio}px system-ui`;
  context.fillText(most.toFixed(1), 4, 13 * devicePixelRatio);
  context.fillText(least.toFixed(1), 4, canvas.height - 4 * devicePixelRatio);
}

const start = () => say({ do: "start", clip: Math.min(Math.max(0, Math.floor(Number(at("clip").value) || 0)), about.clips - 1) });
at("pause").onclick = () => say({ do: "pause", on: state.playing });
at("step").onclick = () => say({ do: "step" });
at("reset").onclick = start;
at("clip").onchange = start;
at("speed").onchange = () => say({ do: "speed", value: Number(at("speed").value) });
at("overlay").onchange = () => say({ do: "doubt", by: at("overlay").value === "error" ? "" : at("overlay").value });
at("record").onclick = () => say({ do: "record", on: !state.recording });
at("again").onclick = () => { tries = 0; connect(); };

const typing = (event) => event.target instanceof HTMLInputElement && event.target.type === "number" || event.target instanceof HTMLSelectElement;
addEventListener("keydown", (event) => {
  if (!controls || typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  const other = { Space: "pause", Period: "step", Backspace: "reset" }[event.code];
  if (other && !(event.code === "Space" && event.target instanceof HTMLButtonElement)) { if (!event.repeat) at(other).click(); event.preventDefault(); }
  else if (controls.key(event, true)) event.preventDefault();
});
addEventListener("keyup", (event) => controls?.key(event, false));
addEventListener("blur", () => controls?.release());
document.addEventListener("visibilitychange", () => {
  controls?.release();
  if (document.hidden) { resume = state.playing; say({ do: "pause", on: true }); }
  else if (socket?.readyState !== WebSocket.OPEN) { tries = 0; connect(); }
  else if (resume) say({ do: "pause", on: false });
});
setInterval(() => { // a step may take long: that is said
  const waits = performance.now() - (times.at(-1) ?? performance.now());
  const late = socket?.readyState === WebSocket.OPEN && state.playing && !document.hidden && waits > LATE;
  if (late || at("late").textContent) at("late").textContent = late ? `no picture for ${(waits / 1000).toFixed(0)} s: the model is at work` : "";
}, 500);
setInterval(() => { if (!document.hidden) say({ do: "here" }); }, HERE_EVERY);
(function tick() { controls?.tick(); requestAnimationFrame(tick); })();
connect();
