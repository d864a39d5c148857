// @ts-check
// What a person wants the robot's states to be: sliders, keys and a gamepad move one target vector.

const KEYS = ["QA", "WS", "ED", "RF", "TG", "YH", "UJ", "IK", "OL"]; // up, down: of the first states of the chosen group
const DEADZONE = 0.1;
const LEAD = 6; // frames that keys may aim ahead of the state, so that it stops soon after they are released

export class Controls {
  /**
   * @param {HTMLElement} place @param {any} about what the server says of the robot
   * @param {(target: number[]) => void} changed called, at most once a drawn frame, when the person wants something else
   */
  constructor(place, about, changed) {
    this.about = about;
    this.changed = changed;
    this.states = about.names.map(() => 0);
    this.target = null; // null: the recording decides
    this.held = new Set();
    this.inputs = [];
    this.outputs = [];
    this.groups = Object.entries(about.groups);
    this.chosen = 0;
    this.last = performance.now();
    this.holding = -1; // the slider that a finger holds
    this.dirty = false;
    this._build(place);
  }

  _build(place) {
    place.replaceChildren();
    this.boxes = this.groups.map(([name, rows], g) => {
      const box = document.createElement("fieldset");
      const legend = document.createElement("legend");
      const button = document.createElement("button");
      button.textContent = `${g + 1}  ${name.replaceAll("_", " ")}`;
      button.addEventListener("click", () => this.choose(g));
      legend.append(button);
      box.append(legend, ...rows.map((i, place) => this._row(i, KEYS[place] || "", g)));
      place.append(box);
      return box;
    });
    this.choose(0);
  }

  _row(i, keys, group) {
    const { names, units, low, high } = this.about;
    const row = document.createElement("label");
    row.className = "state";
    const [key, name, input, output] = ["kbd", "span", "input", "output"].map((tag) => document.createElement(tag));
    key.textContent = keys ? `${keys[0]} ${keys[1]}` : "";
    name.textContent = name.title = plain(names[i]);
    name.title = `${names[i]}, ${units[i]}, ${low[i].toPrecision(3)} to ${high[i].toPrecision(3)} in the recordings`;
    input.type = "range";
    [input.min, input.max, input.step] = [low[i], high[i], "any"];
    input.disabled = !(high[i] > low[i]);
    input.addEventListener("input", () => { this.holding = i; this._choose(group); this._set(i, Number(input.value)); });
    for (const end of ["change", "pointerup", "pointercancel"]) input.addEventListener(end, () => { this.holding = -1; });
    [this.inputs[i], this.outputs[i]] = [input, output];
    row.append(key, name, input, output);
    return row;
  }

  choose(g) {
    this._choose(g);
    this.release();
  }

  _choose(g) {
    this.chosen = g;
    this.boxes?.forEach((box, i) => box.classList.toggle("chosen", i === g));
  }

  release() { this.held.clear(); }

  /** The states as they are now, and whether the recording decides them. */
  show(states, follow) {
    this.states = states;
    if (follow) this.target = null;
    states.forEach((value, i) => {
      if (!this.inputs[i]) return;
      if (i !== this.holding) this.inputs[i].value = this.target ? this.target[i] : value;
      this.outputs[i].textContent = value.toFixed(2);
    });
  }

  _set(i, value) {
    const { low, high } = this.about;
    this.target ??= [...this.states];
    this.target[i] = Math.min(Math.max(value, Math.min(low[i], this.states[i])), Math.max(high[i], this.states[i]));
    this.dirty = true;
  }

  /** @param {KeyboardEvent} event @returns whether the key is one of ours */
  key(event, down) {
    const letter = event.code.startsWith("Key") ? event.code[3] : "";
    const digit = event.code.startsWith("Digit") ? Number(event.code[5]) : 0;
    if (digit >= 1 && digit <= this.groups.length) {
      if (down) this.choose(digit - 1);
      return true;
    }
    const place = KEYS.findIndex((pair) => letter && pair.includes(letter));
    if (place < 0 || place >= this.groups[this.chosen][1].length) return false;
    const which = `${this.groups[this.chosen][1][place]} ${KEYS[place][0] === letter ? 1 : -1}`;
    if (down) this.held.add(which); else { this.held.delete(which); this._rest(Number(which.split(" ")[0])); }
    return true;
  }

  _rest(i) { // what moves by velocity stands still when it is let go
    if (this.about.kinds[i] === "velocity" && this.target && this.about.low[i] <= 0 && this.about.high[i] >= 0) this._set(i, 0);
  }

  _push(i, amount, seconds) { // amount: -1..1
    const { pace, hz, low, high, kinds } = this.about;
    if (!(high[i] > low[i])) return;
    if (kinds[i] === "velocity") return this._set(i, amount > 0 ? amount * high[i] : -amount * low[i]);
    const from = this.target ? this.target[i] : this.states[i];
    const aim = from + amount * pace[i] * hz * seconds;
    const lead = LEAD * pace[i];
    this._set(i, Math.min(Math.max(aim, this.states[i] - lead), this.states[i] + lead));
  }

  /** Once a drawn frame: what is held moves on. */
  tick() {
    const now = performance.now(), seconds = Math.min(0.1, (now - this.last) / 1000);
    this.last = now;
    for (const which of this.held) {
      const [i, sign] = which.split(" ").map(Number);
      this._push(i, sign, seconds);
    }
    const pad = (navigator.getGamepads?.() || []).find((pad) => pad?.connected);
    if (pad) this._pad(pad, seconds);
    if (this.dirty && this.target) {
      this.dirty = false;
      this.changed(this.target);
    }
  }

  _pad(pad, seconds) {
    const rows = this.groups[this.chosen][1];
    pad.axes.slice(0, 4).forEach((value, axis) => {
      const amount = axis % 2 ? -value : value; // up is more
      const moves = Math.abs(amount) > DEADZONE, was = this.tilted?.[axis];
      if (axis < rows.length && moves) this._push(rows[axis], amount, seconds);
      else if (axis < rows.length && was) this._rest(rows[axis]);
      (this.tilted ??= [])[axis] = moves;
    });
    const turn = (pad.buttons[5]?.pressed ? 1 : 0) - (pad.buttons[4]?.pressed ? 1 : 0);
    if (turn && !this.turned) this.choose((this.chosen + turn + this.groups.length) % this.groups.length);
    this.turned = turn;
  }
}

function plain(name) { // kLeftShoulderPitch, LEFT_ELBOW_YAW, observation.state.waist: as words
  const words = name.split(".").pop().replace(/^k(?=[A-Z])/, "").replace(/([a-z])([A-Z])/g, "$1 $2").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1).toLowerCase();
}
