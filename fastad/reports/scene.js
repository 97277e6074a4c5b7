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
function makeScene(scene) {
  const kinds = { grid: gridScene, disc: planeScene, plane: planeScene, arms: armsScene };
  return (kinds[scene.kind] || stepsScene)(scene);
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
      shape("text", { x: 0.5 + (arm + 0.5) * width, y: 8.75, class: "tick" }, arm + 1)),
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

/** Any other environment: the steps of an episode from left to right, each as high as its action. */
function stepsScene() {
  const height = (action, all) => {
    const value = Array.isArray(action) ? action[0] : action;
    const [low, high] = all;
    return 8.5 - (7 * (value - low)) / Math.max(high - low, 1e-9);
  };
  const scene = {
    box: [0, 0, 10, 10],
    unit: 1,
    still: () => [shape("line", { x1: 0.4, x2: 9.6, y1: 9.2, y2: 9.2, class: "base" })],
    at(rollout, t) {
      const [first, end] = episodeOf(rollout, t);
      if (!rollout.actionRange) {
        const values = rollout.action.map((action) => (Array.isArray(action) ? action[0] : action));
        rollout.actionRange = [Math.min(...values), Math.max(...values)];
      }
      return [0.6 + (8.8 * (t - first)) / Math.max(1, end - first - 1), height(rollout.action[t], rollout.actionRange)];
    },
  };
  return scene;
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
