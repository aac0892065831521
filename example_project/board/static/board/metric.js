// One metric on the board: its number, its trend, and its last minute as a curve.

export const WINDOW = 60_000; // ms that a chart shows
const TREND = 10_000; // ms: the trend compares the last so many with those half a minute earlier
const SILENCE = 5_000; // ms without a value after which a curve is interrupted
const WIDTH = 600, HEIGHT = 100; // of the drawing; CSS stretches it
const LEAST_GAP = 3; // of the drawing's width: a gap of a moment is seen too

const KNOWN = {
  requests: { title: "Requests", unit: "per second" },
  latency: { title: "Response time", unit: "ms" },
  errors: { title: "Errors", unit: "% of requests", digits: 2 },
  cpu: { title: "Processor", unit: "%", digits: 1, range: [0, 100] },
  memory: { title: "Memory", unit: "GB", digits: 2, scale: 1e-9 },
  visitors: { title: "Visitors", unit: "people" },
};

const template = document.querySelector("#metric");

export class Metric {
  #about; #finest; #numbers; #rounded; #card; #values = []; // [{at, value}], oldest first

  constructor(name) {
    this.#about = KNOWN[name] ?? { title: name, unit: "" };
    const { digits = KNOWN[name] ? 0 : 2 } = this.#about;
    this.#finest = 10 ** -digits;
    this.#rounded = new Intl.NumberFormat("en", { maximumFractionDigits: digits });
    this.#numbers = new Intl.NumberFormat("en", {
      minimumFractionDigits: KNOWN[name] ? digits : 0,
      maximumFractionDigits: digits,
    });
    this.#card = template.content.cloneNode(true).firstElementChild;
    this.#card.dataset.metric = name;
    this.#show("h2", this.#about.title);
    this.#show(".number span", this.#about.unit);
    const place = Object.keys(KNOWN).indexOf(name);
    this.#card.style.order = place < 0 ? Object.keys(KNOWN).length : place;
  }

  get card() {
    return this.#card;
  }

  add(value, at) {
    this.#values.push({ at, value: value * (this.#about.scale ?? 1) });
    const text = this.#text(this.#values.at(-1).value);
    const { title, unit } = this.#about;
    this.#show(".number b", text);
    this.#find("svg").ariaLabel = `${title} over the last minute, now ${text} ${unit}`.trim();
    this.#showTrend(at);
  }

  /** Draw the minute that ends now. Gaps are [{from, to}]; without `to` they last. */
  draw(now, gaps) {
    const start = now - WINDOW;
    // One value left of the window, so that the curve begins at its edge.
    while (this.#values.length > 1 && this.#values[1].at < start) this.#values.shift();
    const latest = this.#values.at(-1);
    if (now - latest.at > SILENCE) {
      this.#show(".trend", `nothing for ${Math.floor((now - latest.at) / 1000)} s`);
    }

    const [low, high] = this.#range();
    const x = (at) => (((at - start) / WINDOW) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - ((value - low) / (high - low)) * HEIGHT).toFixed(1);
    let curve = "", area = "";
    for (const stretch of this.#stretches(gaps)) {
      const points = stretch.map(({ at, value }) => `${x(at)},${y(value)}`);
      curve += `M${points[0]}L${points.join("L")}`; // a single value is a dot
      area += `M${x(stretch[0].at)},${HEIGHT}L${points.join("L")}L${x(stretch.at(-1).at)},${HEIGHT}Z`;
    }
    this.#find(".curve").setAttribute("d", curve);
    this.#find(".area").setAttribute("d", area);
    this.#show(".top", this.#rounded.format(high));
    this.#show(".bottom", this.#rounded.format(low));
    this.#drawGaps(gaps, start, now, x);
  }

  #drawGaps(gaps, start, now, x) {
    const seen = gaps.filter(({ to }) => (to ?? now) > start);
    this.#find(".gaps").replaceChildren(
      ...seen.map(({ from, to }) => {
        const shade = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        shade.setAttribute("x", x(Math.max(from, start)));
        const width = x((to ?? now) - Math.max(from, start) + start);
        shade.setAttribute("width", Math.max(LEAST_GAP, width));
        shade.setAttribute("height", HEIGHT);
        return shade;
      }),
    );
  }

  /** The values in pieces: a curve over a gap would be invented. */
  #stretches(gaps) {
    const pieces = [];
    let previous = null;
    for (const point of this.#values) {
      const isApart =
        !previous ||
        point.at - previous.at > SILENCE ||
        gaps.some(({ from }) => previous.at <= from && from < point.at);
      if (isApart) pieces.push([]);
      pieces.at(-1).push(point);
      previous = point;
    }
    return pieces;
  }

  /** The least and the most that the chart shows, with some air, and round. */
  #range() {
    if (this.#about.range) return this.#about.range;
    const values = this.#values.map(({ value }) => value);
    const least = Math.min(...values), most = Math.max(...values);
    const span = Math.max(most - least, Math.abs(most) * 0.02, 2 * this.#finest);
    const step = Math.max(10 ** Math.floor(Math.log10(span)) / 2, this.#finest);
    const low = Math.floor((least - span / 4) / step) * step;
    return [least >= 0 ? Math.max(0, low) : low, Math.ceil((most + span / 4) / step) * step];
  }

  #showTrend(now) {
    const mean = (from, to) => {
      const values = this.#values.filter(({ at }) => from < at && at <= to);
      return values.reduce((sum, { value }) => sum + value, 0) / values.length;
    };
    const before = mean(now - 4 * TREND, now - 3 * TREND);
    const change = (mean(now - TREND, now) - before) / Math.abs(before);
    this.#show(".trend", trendText(change * 100));
  }

  #text(value) {
    return this.#numbers.format(value);
  }

  #show(selector, text) {
    const element = this.#find(selector);
    if (element.textContent !== text) element.textContent = text;
  }

  #find(selector) {
    return this.#card.querySelector(selector);
  }
}

function trendText(percent) {
  if (!Number.isFinite(percent)) return "trend in half a minute";
  if (Math.abs(percent) < 0.5) return "→ steady";
  const size = Math.abs(percent) < 10 ? Math.abs(percent).toFixed(1) : Math.round(Math.abs(percent));
  return `${percent > 0 ? "▲ up" : "▼ down"} ${size} % in half a minute`;
}
