// A rollout to be played, step by step, with what the model attends to.
class Replay {
  constructor(root, { title, colour, note, replay }) {
    root.append(document.getElementById("replay").content.cloneNode(true));
    this.root = root.querySelector(".replay");
    this.replay = replay;
    this.scene = makeScene(replay);
    this.layer = Math.max(0, replay.layers - 1);
    this.find("h3").textContent = title;
    this.root.setAttribute("aria-label", `Replay of ${title}`);
    this.root.style.setProperty("--own", `var(${colour})`);
    if (note) { this.find(".note").textContent = note; this.find(".note").hidden = false; }
    const tasks = this.find(".task select");
    replay.rollouts.forEach((one, i) => tasks.append(new Option(one.task, i)));
    tasks.addEventListener("change", () => this.choose(Number(tasks.value)));
    this.find(".play").addEventListener("click", () => this.play());
    this.find(".before").addEventListener("click", () => this.jump(-1));
    this.find(".after").addEventListener("click", () => this.jump(1));
    this.find(".seek").addEventListener("input", (event) => this.show(Number(event.target.value)));
    this.find(".remembered").addEventListener("input", (event) => this.remember(Number(event.target.value)));
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.onPlace(".episodes", "click", (share) => {
      const starts = this.rollout.episode_start;
      this.show(starts[Math.min(starts.length - 1, Math.floor(share * starts.length))]);
    });
    for (const kind of ["pointermove", "click"]) {
      this.onPlace(".strip", kind, (share) => {
        if (this.weights) this.remember(this.first + Math.floor(share * this.weights.length));
      });
    }
    const layers = this.find(".layers");
    for (let layer = 0; layer < replay.layers; layer++) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `layer ${layer + 1}`;
      button.addEventListener("click", () => { this.layer = layer; this.show(this.t); });
      layers.append(button);
    }
    this.choose(0);
  }

  find(selector) { return this.root.querySelector(selector); }

  onPlace(selector, kind, act) {
    const svg = this.find(selector);
    svg.addEventListener(kind, (event) => {
      const box = svg.getBoundingClientRect();
      act(Math.min(0.999999, Math.max(0, (event.clientX - box.left) / box.width)));
    });
  }

  choose(index) {
    this.stop();
    this.rollout = this.replay.rollouts[index];
    const kept = this.rollout.attention;
    this.bytes = kept && Uint8Array.from(atob(kept.data), (letter) => letter.charCodeAt(0));
    this.find(".memory").hidden = !kept;
    this.find(".seek").max = this.rollout.reward.length - 1;
    this.show(0);
  }

  show(t) {
    this.t = Math.min(this.rollout.reward.length - 1, Math.max(0, t));
    [this.begin, this.end, this.episode] = episodeOf(this.rollout, this.t);
    this.chosen = null;
    this.attend();
    this.say();
    this.drawEpisodes();
    this.drawPolicy();
    if (this.weights) {
      let best = 0;
      this.weights.forEach((weight, i) => { if (weight > this.weights[best]) best = i; });
      this.remember(this.first + best);
    } else this.drawScene();
  }

  say() {
    const { rollout, t } = this;
    const total = rollout.episode_start.length;
    let gained = 0;
    for (let i = this.begin; i <= t; i++) gained += rollout.reward[i];
    this.find(".episode").textContent = `Episode ${this.episode + 1} of ${total}`;
    this.find(".step").textContent = `step ${t - this.begin + 1} of ${this.end - this.begin}`;
    this.find(".gain").textContent = `reward ${number(rollout.reward[t])}, return so far ${number(gained)}`;
    const seek = this.find(".seek");
    seek.value = t;
    seek.setAttribute("aria-valuetext", `episode ${this.episode + 1}, step ${t - this.begin + 1}`);
  }

  /** Weights of the chosen layer on the steps before, of the nearest kept query up to now. */
  attend() {
    const kept = this.rollout.attention;
    this.weights = null;
    if (!kept) return;
    let q = 0;
    while (q + 1 < kept.query.length && kept.query[q + 1] <= this.t) q++;
    const { layers, window } = this.replay;
    this.query = kept.query[q];
    const oldest = this.query - window + 1;
    this.first = Math.max(0, oldest);
    const start = (q * layers + this.layer) * window + this.first - oldest;
    const scale = kept.scale[q][this.layer] / 255;
    this.weights = Array.from(this.bytes.subarray(start, start + this.query - this.first + 1), (byte) => byte * scale);
    [...this.find(".layers").children].forEach((button, i) => button.setAttribute("aria-pressed", i === this.layer));
    this.drawStrip();
  }

  drawStrip() {
    const svg = this.find(".strip"), n = this.weights.length, top = Math.max(...this.weights, 1e-9);
    svg.setAttribute("viewBox", `0 0 ${n} 100`);
    svg.setAttribute("aria-label", `Attention of layer ${this.layer + 1}, mean over heads, over ${n} steps; episodes alternate`);
    const drawn = [];
    this.rollout.episode_start.forEach((start, i) => {
      const end = this.rollout.episode_start[i + 1] ?? this.rollout.reward.length;
      const low = Math.max(start, this.first), high = Math.min(end, this.query + 1);
      if (high > low && i % 2 === 0) drawn.push(shape("rect", { x: low - this.first, y: 0, width: high - low, height: 100, class: "even" }));
    });
    this.weights.forEach((weight, i) => {
      const height = (86 * weight) / top;
      drawn.push(shape("rect", { x: i + 0.05, y: 92 - height, width: 0.9, height, class: "weight" }));
      if (this.rollout.reward[this.first + i] > 0) drawn.push(shape("rect", { x: i, y: 95, width: 1, height: 5, class: "paid" }));
    });
    svg.replaceChildren(...drawn);
  }

  remember(step) {
    this.chosen = Math.min(this.query, Math.max(this.first, step));
    const { rollout, chosen } = this;
    const range = this.find(".remembered");
    range.min = this.first;
    range.max = this.query;
    range.value = chosen;
    const [begin, , episode] = episodeOf(rollout, chosen);
    const where = rollout.x ? ` at (${number(rollout.x[chosen])}, ${number(rollout.y[chosen])})` : "";
    const told = `Episode ${episode + 1}, step ${chosen - begin + 1}${where}: ${this.words(rollout.action[chosen])}, ` +
      `reward ${number(rollout.reward[chosen])}; ${(100 * this.weights[chosen - this.first]).toFixed(1)} % of the attention`;
    const late = this.query === this.t ? "" : ` (kept for step ${this.query + 1} of the rollout)`;
    this.find(".recalled").textContent = told + late;
    range.setAttribute("aria-valuetext", told);
    const strip = this.find(".strip");
    strip.querySelector(".chosen")?.remove();
    strip.append(shape("rect", { x: chosen - this.first, y: 0, width: Math.max(1, this.weights.length / 200), height: 100, class: "chosen", "vector-effect": "non-scaling-stroke" }));
    this.drawScene();
  }

  words(action) {
    if (!this.replay.actions) return [action].flat().map(number).join(", ");
    if (!Array.isArray(action)) return this.replay.actions[action];
    let offset = 0;
    return action.map((choice, i) => {
      const name = this.replay.actions[offset + choice];
      offset += this.replay.choices[i];
      return name;
    }).join(", ");
  }

  drawScene() {
    const { scene, rollout, t } = this, svg = this.find(".scene");
    svg.setAttribute("viewBox", scene.box.join(" "));
    const drawn = scene.still();
    for (const mark of scene.place ? rollout.marks : []) {
      const [x, y, r] = scene.place(mark);
      drawn.push(shape("circle", { cx: x, cy: y, r, class: "mark" }), shape("text", { x, y: y + 0.09, class: "name" }, mark.name));
    }
    if (scene.moving) drawn.push(...scene.moving(rollout, t));
    const top = this.weights ? Math.max(...this.weights, 1e-9) : 1;
    (this.weights || []).forEach((weight, i) => {
      if (weight < 0.04 * top) return;
      const [x, y] = scene.at(rollout, this.first + i);
      drawn.push(shape("circle", { cx: x, cy: y, r: 0.12 + (0.28 * weight) / top, class: "memory", opacity: 0.15 + (0.45 * weight) / top }));
    });
    const trail = [];
    for (let i = this.begin; i <= t; i++) trail.push(scene.at(rollout, i).join(","));
    drawn.push(shape("polyline", { points: trail.join(" "), class: "trail" }));
    const [x, y] = scene.at(rollout, t);
    drawn.push(shape("circle", { cx: x, cy: y, r: 0.26, class: rollout.reward[t] > 0 ? "agent paid" : "agent" }));
    if (rollout.heading) {
      const angle = rollout.heading[t];
      drawn.push(shape("line", { x1: x, y1: y, x2: x + 0.24 * Math.cos(angle), y2: y - 0.24 * Math.sin(angle), class: "heading" }));
    }
    if (this.chosen !== null) {
      const [cx, cy] = scene.at(rollout, this.chosen);
      drawn.push(shape("circle", { cx, cy, r: 0.38, class: "ring" }));
    }
    svg.replaceChildren(...drawn);
    svg.setAttribute("aria-label", `${rollout.task}; ${this.find(".now").textContent}; ring: the remembered step`);
  }

  drawPolicy() {
    const { rollout, t } = this, list = this.find(".policy ul");
    const rows = rollout.probabilities
      ? rollout.probabilities[t].map((p, i) => [this.replay.actions[i], p, `${(100 * p).toFixed(0)} %`, this.isTaken(i)])
      : [rollout.mean[t]].flat().map((m, i) => [`number ${i + 1}`, Math.min(1, Math.abs(m)), `${number(m)} ± ${number([rollout.deviation[t]].flat()[i])}`, false]);
    this.find(".policy").classList.toggle("many", rows.length > 8);
    list.replaceChildren(...rows.map(([name, share, told, taken]) => {
      const item = document.createElement("li"), bar = document.createElement("i"), part = document.createElement("b");
      const before = document.createElement("span"), after = document.createElement("span");
      before.textContent = name;
      after.textContent = told;
      part.style.width = `${100 * share}%`;
      bar.append(part);
      item.append(before, bar, after);
      if (taken) item.className = "taken";
      return item;
    }));
  }

  isTaken(option) {
    let offset = 0;
    return [this.rollout.action[this.t]].flat().some((choice, i) => {
      const taken = offset + choice === option;
      offset += this.replay.choices ? this.replay.choices[i] : 0;
      return taken;
    });
  }

  drawEpisodes() {
    const { rollout } = this, svg = this.find(".episodes"), n = rollout.returns.length;
    const low = Math.min(0, ...rollout.returns);
    const top = Math.max(rollout.optimal ?? -Infinity, ...rollout.returns, low + 1e-9);
    svg.setAttribute("viewBox", `0 0 ${n} 100`);
    svg.setAttribute("aria-label", `Return of each of ${n} episodes: ${rollout.returns.map(number).join(", ")}`);
    const gap = n > 60 ? 0.02 : 0.06;
    svg.replaceChildren(...rollout.returns.flatMap((got, i) => {
      const height = (96 * (got - low)) / (top - low), box = { x: i + gap, width: 1 - 2 * gap };
      const bar = shape("rect", { ...box, y: 100 - height, height, class: i === this.episode ? "got now" : "got" });
      bar.append(shape("title", {}, `episode ${i + 1}: ${number(got)}`));
      return [shape("rect", { ...box, y: 0, height: 100, class: "slot" }), bar];
    }));
  }

  jump(by) {
    const starts = this.rollout.episode_start;
    this.show(starts[Math.min(starts.length - 1, Math.max(0, this.episode + by))]);
  }

  play() {
    if (this.timer) { this.stop(); return; }
    if (this.t === this.rollout.reward.length - 1) this.show(0);
    const tick = () => {
      if (this.t === this.rollout.reward.length - 1) { this.stop(); return; }
      this.show(this.t + 1);
      this.timer = setTimeout(tick, 1000 / Number(this.find(".pace select").value));
    };
    this.timer = setTimeout(tick, 120);
    this.find(".play").textContent = "Pause";
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.find(".play").textContent = "Play";
  }

  key(event) {
    const own = event.target.matches("select, .remembered") || event.ctrlKey || event.metaKey || event.altKey;
    if (own || (event.key === " " && event.target.matches("button"))) return;
    const acts = {
      " ": () => this.play(), ArrowLeft: () => this.show(this.t - 1), ArrowRight: () => this.show(this.t + 1),
      PageUp: () => this.jump(-1), PageDown: () => this.jump(1), Home: () => this.show(0), End: () => this.show(Infinity),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }
}

/** A number to look at: whole ones as they are, others with two digits. */
function number(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}

const replays = [...document.querySelectorAll("[data-replay]")].map((place) => new Replay(place, report.replays[place.dataset.replay]));

/** Where nothing has the focus, keys are for the first replay whose picture is in sight. */
document.addEventListener("keydown", (event) => {
  if (event.target !== document.body) return;
  const inSight = ({ root }) => {
    const box = root.querySelector(".scene").getBoundingClientRect(), middle = (box.top + box.bottom) / 2;
    return middle > 0 && middle < innerHeight;
  };
  replays.find(inSight)?.key(event);
});
