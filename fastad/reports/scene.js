// Where the agent is, by the kind of its environment, as shapes of an SVG.
const SVG = "http://www.w3.org/2000/svg";

/** An element of an SVG; its text is text, whatever it says. */
function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** How one kind of scene is drawn: its box, what stands still, and where a step was. */
function makeScene({ scene, actions, choices }) {
  const kinds = { grid: gridScene, disc: planeScene, plane: planeScene, arms: armsScene };
  if (scene.kind in kinds) return kinds[scene.kind](scene);
  return stepsScene(actions && actions.slice(0, choices[0]));
}

function gridScene({ columns, rows, walls }) {
  return {
    box: [0, 0, columns, rows],
    unit: 1,
    at: (rollout, t) => [rollout.x[t] + 0.5, rollout.y[t] + 0.5],
    place: (mark) => [mark.x + 0.5, mark.y + 0.5, 0.42],
    still() {
      const cells = [];
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++) cells.push(cell(x, y, "cell"));
      }
      return [...cells, ...(walls || []).map(([x, y]) => cell(x, y, "wall"))];
    },
  };
}

function cell(x, y, kind) {
  return shape("rect", { x: x + 0.03, y: y + 0.03, width: 0.94, height: 0.94, rx: 0.12, class: kind });
}

/** A pool or a plane from above; y points upwards there, and downwards on a screen. */
function planeScene({ radius, low, high }) {
  const [x0, y0, x1, y1] = radius ? [-radius, -radius, radius, radius] : [...low, ...high];
  const unit = Math.max(x1 - x0, y1 - y0) / 10;
  const margin = 0.2;
  return {
    box: [x0 / unit - margin, -y1 / unit - margin, (x1 - x0) / unit + 2 * margin, (y1 - y0) / unit + 2 * margin],
    unit,
    at: (rollout, t) => [rollout.x[t] / unit, -rollout.y[t] / unit],
    place: (mark) => [mark.x / unit, -mark.y / unit, (mark.radius || 0.4 * unit) / unit],
    still: () => [
      radius
        ? shape("circle", { cx: 0, cy: 0, r: radius / unit, class: "cell" })
        : shape("rect", { x: x0 / unit, y: -y1 / unit, width: (x1 - x0) / unit, height: (y1 - y0) / unit, rx: 0.2, class: "cell" }),
    ],
  };
}

/** Arms side by side, each as high as it was pulled. */
function armsScene({ arms }) {
  const width = 9 / arms;
  const height = 7.4;
  const bar = (arm, share, kind) => shape("rect", {
    x: 0.5 + arm * width + 0.1 * width, width: 0.8 * width, y: 0.8 + height * (1 - share),
    height: Math.max(0.02, height * share), rx: 0.08, class: kind,
  });
  return {
    box: [0, 0, 10, 10],
    unit: 1,
    at: (rollout, t) => [0.5 + (rollout.action[t] + 0.5) * width, 9.3],
    still: () => Array.from({ length: arms }, (_, arm) =>
      shape("text", { x: 0.5 + (arm + 0.5) * width, y: 8.75, class: "tick" }, arm)),
    moving(rollout, t) {
      const pulls = Array(arms).fill(0);
      for (let i = 0; i <= t; i++) pulls[rollout.action[i]] += 1;
      const drawn = pulls.map((n, arm) => bar(arm, n / (t + 1), arm === rollout.action[t] ? "arm now" : "arm"));
      const means = rollout.means || [];
      const low = Math.min(0, ...means), high = Math.max(1, ...means);
      means.forEach((mean, arm) => {
        const y = 0.8 + height * (1 - (mean - low) / (high - low));
        drawn.push(shape("line", { x1: 0.5 + arm * width, x2: 0.5 + (arm + 1) * width, y1: y, y2: y, class: "mean" }));
      });
      return drawn;
    },
  };
}

/**
 * Any other environment: the steps of an episode from left to right, each as high as its action.
 * Of several choices or numbers it is the first; names are null where actions are numbers.
 */
function stepsScene(names) {
  const [left, right, top, bottom] = [names ? 1.6 : 1.1, 9.6, 1.2, 8.5];
  const first = (action) => (Array.isArray(action) ? action[0] : action);
  const height = (value, [low, high]) => bottom - ((bottom - top) * (value - low)) / Math.max(high - low, 1e-9);
  const range = (rollout) => {
    if (names) return [0, names.length - 1];
    return (rollout.actionRange ??= rollout.action.map(first).reduce(
      ([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]));
  };
  const label = (text, y) => shape("text", { x: left - 0.5, y: y + 0.1, class: "tick end" }, text);
  return {
    box: [0, 0, 10, 10],
    unit: 1,
    still: () => [
      shape("line", { x1: left - 0.3, x2: right, y1: 9.2, y2: 9.2, class: "base" }),
      shape("text", { x: (left + right) / 2, y: 9.65, class: "tick" }, "steps of the episode"),
    ],
    moving(rollout) {
      const [low, high] = range(rollout);
      if (!names) return [low, high].map((value) => label(number(value), height(value, [low, high])));
      // As many as can be read one above the other.
      const every = Math.ceil(names.length / 20);
      return names.flatMap((name, option) =>
        option % every ? [] : [label(String(name).slice(0, 10), height(option, [low, high]))]);
    },
    at(rollout, t) {
      const [begin, end] = episodeOf(rollout, t);
      return [left + ((right - left) * (t - begin)) / Math.max(1, end - begin - 1),
        height(first(rollout.action[t]), range(rollout))];
    },
  };
}

/** First step of the episode of step t, one past its last, and its number from 0. */
function episodeOf(rollout, t) {
  const starts = rollout.episode_start;
  let low = 0, high = starts.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (starts[middle] <= t) low = middle; else high = middle - 1;
  }
  return [starts[low], low + 1 < starts.length ? starts[low + 1] : rollout.reward.length, low];
}
