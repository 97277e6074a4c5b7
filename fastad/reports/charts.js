"use strict";
// What the page was made with, and its charts in the colours of the page, light or dark.
const report = JSON.parse(document.getElementById("data").textContent);

/** Values in which "--name" or "--name/0.2" stands for a colour of the page's style. */
function inColours(value, style) {
  if (typeof value === "string" && value.startsWith("--")) {
    const [name, opacity] = value.split("/");
    const colour = style.getPropertyValue(name).trim();
    if (opacity === undefined) return colour;
    const part = (place) => parseInt(colour.slice(place, place + 2), 16);
    return `rgba(${part(1)},${part(3)},${part(5)},${opacity})`;
  }
  if (Array.isArray(value)) return value.map((item) => inColours(item, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, inColours(item, style)]));
}

function drawCharts() {
  const style = getComputedStyle(document.documentElement);
  const family = style.getPropertyValue("--font");
  for (const place of document.querySelectorAll("[data-chart]")) {
    const { data, layout } = inColours(report.charts[place.dataset.chart], style);
    layout.font.family = family;
    Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
  }
}

drawCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
