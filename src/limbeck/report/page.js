// Draws the plots of a Limbeck report in the colours of the style sheet, and copies code.
"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const finger = matchMedia("(pointer: coarse)");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const words = new Set(["text", "ticktext", "customdata", "hovertemplate", "name"]); // may hold names from the data

  // "var(--student)" -> the colour that the style sheet gives it now
  function paint(value, style) {
    if (typeof value === "string") {
      const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((each) => paint(each, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, words.has(key) ? each : paint(each, style)]));
    return value;
  }

  function draw() {
    const style = getComputedStyle(root);
    for (const plot of plots) {
      const { data, layout } = paint(figures[plot.id], style);
      layout.dragmode = finger.matches ? false : "zoom"; // a finger that scrolls must not zoom
      Plotly.react(plot, data, layout, {
        responsive: true,
        displaylogo: false,
        modeBarButtons: [["toImage", "resetScale2d"]],
        toImageButtonOptions: { filename: plot.id.replace("plot", "limbeck"), scale: 2 },
      });
    }
  }

  function fit() {
    for (const plot of plots) Plotly.Plots.resize(plot);
  }

  function select(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }

  async function copy(button) {
    const code = button.closest(".code").querySelector("code");
    let done = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      done = true;
    } catch {
      select(code); // no permission, or no clipboard for a file: copy the selection, or leave it selected
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 2500);
  }

  root.classList.add("script");
  for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", () => copy(button));
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => {
    root.dataset.print = "";
    draw();
    fit();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.print;
    draw();
    fit();
  });
  draw();
})();
