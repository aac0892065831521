// The board: a card for each metric that comes, and what is known about those that do not.

import { Socket, clock, duration, element, show } from "../home/socket.js";
import { Metric, WINDOW } from "./metric.js";

const news = document.querySelector("#news");
const cards = document.querySelector("#cards");
const gapList = document.querySelector("#gaps");

const SILENCE = 4_000; // ms without any value after which the board says so
const MOST_METRICS = 24, MOST_ENTRIES = 8;

const metrics = new Map();
let gaps = []; // [{from, to}], `to` is missing while it lasts
let latest = null; // when the last value came

const socket = new Socket("/ws/board/", {
  opened() {
    socket.works();
    endGap("this page was not connected"); // if there was one; the server accepts when Redis is there
  },
  received,
  lost() {
    if (metrics.size) beginGap();
  },
});

function received(message) {
  if (message.type === "value") {
    latest = Date.now();
    addValue(message.metric, message.value);
  } else if (message.type === "interrupted") {
    show("away", "Redis is away…");
    beginGap();
  } else if (message.type === "gap") {
    show("here", "Connected");
    endGap(message.reason, message.seconds);
  } else if (message.type === "unreadable") {
    note(`${clock()}: metrics.${message.metric} was no number.`);
  }
}

function addValue(name, value) {
  if (!metrics.has(name)) {
    if (metrics.size >= MOST_METRICS) return;
    metrics.set(name, new Metric(name));
    cards.append(metrics.get(name).card);
  }
  metrics.get(name).add(value, latest);
}

// ---- gaps

function beginGap() {
  if (!gaps.length || gaps.at(-1).to) gaps.push({ from: Date.now() });
}

function endGap(reason, seconds) {
  const gap = gaps.at(-1);
  if (!gap || gap.to) return;
  gap.to = Date.now();
  const length = duration(seconds ?? (gap.to - gap.from) / 1000);
  note(`${clock()}: the values of ${length} may be missing (${reason}).`);
}

function note(text) {
  if (!gapList.dataset.used) gapList.replaceChildren();
  gapList.dataset.used = "yes";
  gapList.prepend(element("li", "", text));
  if (gapList.childElementCount > MOST_ENTRIES) gapList.lastElementChild.remove();
}

// ---- every second, and every frame for those who like movement

function tell() {
  const quiet = latest === null ? 0 : Date.now() - latest;
  const open = gaps.length > 0 && !gaps.at(-1).to;
  if (open) tellNews("gap", "Interrupted: values are missing until the link is back.");
  else if (latest === null) tellNews("waiting", "Waiting for the first value… is the feed running?");
  else if (quiet > SILENCE) {
    tellNews("waiting", `Nothing has come for ${Math.round(quiet / 1000)} s. Is the feed running?`);
  } else tellNews("live", `Live: ${metrics.size} metrics and their last minute.`);
}

function tellNews(state, text) {
  news.dataset.state = state;
  if (news.textContent !== text) news.textContent = text;
}

function draw() {
  const now = Date.now();
  gaps = gaps.filter(({ to }) => !to || to > now - WINDOW);
  for (const metric of metrics.values()) metric.draw(now, gaps);
}

function animate() {
  draw();
  requestAnimationFrame(animate);
}

setInterval(tell, 1000);
if (matchMedia("(prefers-reduced-motion: reduce)").matches) setInterval(draw, 1000);
else animate();
