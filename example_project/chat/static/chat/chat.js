"use strict";

// The room's page: one WebSocket, replaced whenever it is lost.
//
// What you say waits in the outbox, under the conversation, until the room repeats it. States of
// an outbox entry: "waiting" for a connection (sent on its own later), "sending", or "failed"
// (with the choice to try again). Nothing is sent twice unless you ask for it.

const room = document.querySelector("#chat").dataset.room;
const me = document.querySelector("#chat").dataset.name;
const statusLine = document.querySelector("#status");
const scroller = document.querySelector("#scroll");
const lines = document.querySelector("#lines");
const outboxList = document.querySelector("#outbox");
const composer = document.querySelector("#composer");
const input = document.querySelector("#text");

const JOIN = "join"; // the id of our request to enter, which an error may answer
const ECHO_TIMEOUT = 10_000; // ms until a message that the room did not repeat counts as failed
const FIRST_DELAY = 500, LONGEST_DELAY = 10_000; // ms between attempts to connect
const MOST_LINES = 500;

const outbox = new Map(); // id → {id, text, item, timer, state}
let socket, retryTimer, failures = 0, joined = false, counter = 0;

// ---- connection

function connect() {
  clearTimeout(retryTimer);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const current = (socket = new WebSocket(`${scheme}//${location.host}/ws/rooms/${room}/`));
  current.onopen = () => send({ type: "join", id: JOIN, name: me });
  current.onmessage = (event) => current === socket && receive(JSON.parse(event.data));
  current.onclose = () => current === socket && lost();
}

function send(message) {
  socket.send(JSON.stringify(message));
}

function lost() {
  joined = false;
  for (const entry of outbox.values()) {
    if (entry.state === "sending") fail(entry, "The connection broke; perhaps not sent.");
  }
  // Jitter keeps a thousand pages from coming back in the same instant.
  const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** failures++);
  retryTimer = setTimeout(connect, delay * (0.5 + Math.random() / 2));
  show("away", failures < 3 ? "Reconnecting…" : "Still reconnecting…");
}

function abandon() {
  socket.onclose = null;
  socket.close();
  lost();
}

function show(state, text) {
  statusLine.dataset.state = state;
  if (statusLine.textContent !== text) statusLine.textContent = text;
}

addEventListener("online", () => !joined && connect());

// ---- what the server says

function receive(message) {
  if (message.type === "joined") {
    joined = true;
    failures = 0;
    show("here", "Connected");
    for (const entry of outbox.values()) if (entry.state === "waiting") transmit(entry);
  } else if (message.type === "message") {
    if (outbox.has(message.id)) forget(outbox.get(message.id));
    addMessage(message.name, message.text, message.id !== null);
  } else if (message.type === "notice" || message.type === "announcement") {
    addLine(message.type, element("p", "", message.text));
  } else if (message.type === "error" && message.id === JOIN) {
    if (message.retry) return abandon();
    socket.onclose = null;
    socket.close();
    show("away", message.text);
  } else if (message.type === "error" && outbox.has(message.id)) {
    fail(outbox.get(message.id), message.text, message.retry);
  }
}

// ---- what you say

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  input.value = "";
  input.focus();
  if (!text) return;
  const entry = { id: String(++counter), text, item: element("li", "line own") };
  outbox.set(entry.id, entry);
  outboxList.append(entry.item);
  transmit(entry);
  scroller.scrollTop = scroller.scrollHeight;
});

function transmit(entry) {
  clearTimeout(entry.timer);
  if (!joined) return mark(entry, "waiting", "Waiting for the connection…");
  mark(entry, "sending", "");
  entry.timer = setTimeout(() => fail(entry, "No answer; perhaps not sent."), ECHO_TIMEOUT);
  send({ type: "say", id: entry.id, text: entry.text });
}

function fail(entry, why, mayRetry = true) {
  clearTimeout(entry.timer);
  mark(entry, "failed", why);
  const choices = [["Discard", forget]];
  if (mayRetry) choices.unshift(["Try again", transmit]);
  for (const [label, action] of choices) {
    const button = element("button", "", label);
    button.onclick = () => action(entry);
    entry.item.lastChild.append(button);
  }
}

function mark(entry, state, note) {
  entry.state = state;
  entry.item.dataset.state = state;
  const remark = element("small", "remark", note);
  entry.item.replaceChildren(element("p", "bubble", entry.text), remark);
  keepDown(() => {});
}

function forget(entry) {
  clearTimeout(entry.timer);
  outbox.delete(entry.id);
  entry.item.remove();
}

// ---- the conversation; text from others only ever becomes textContent

function addMessage(author, text, own) {
  const bubble = element("p", "bubble", text);
  const time = element("time", "", clock());
  const face = element("span", "face", [...author][0].toUpperCase());
  face.ariaHidden = "true";
  face.style.setProperty("--hue", hue(author));
  const by = element("p", "by", own ? "You" : author);
  by.append(" ", time);
  const item = addLine(own ? "line own" : "line", face, by, bubble);
  item.dataset.author = own ? "" : author;
  const previous = item.previousElementSibling;
  if (previous && previous.dataset.author === item.dataset.author) item.classList.add("again");
}

function addLine(kind, ...children) {
  const item = element("li", kind);
  item.append(...children);
  keepDown(() => lines.append(item));
  if (lines.childElementCount > MOST_LINES) lines.firstElementChild.remove();
  return item;
}

/** Follow the conversation, except for somebody who has scrolled up to read. */
function keepDown(change) {
  const below = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  change();
  if (below < 80) scroller.scrollTop = scroller.scrollHeight;
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function clock() {
  return new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

function hue(author) {
  let sum = 0;
  for (const character of author) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}

connect();
