// The room's page.
//
// What you say waits in the outbox, under the conversation, until the room repeats it. States of
// an outbox entry: "waiting" for a connection (sent on its own later), "sending", or "failed"
// (with the choice to try again). Nothing is sent twice unless you ask for it.

import { Socket, clock, duration, element, hue, keepDown, show } from "../home/socket.js";

const room = document.querySelector("#chat").dataset.room;
const me = document.querySelector("#chat").dataset.name;
const scroller = document.querySelector("#scroll");
const lines = document.querySelector("#lines");
const outboxList = document.querySelector("#outbox");
const composer = document.querySelector("#composer");
const input = document.querySelector("#text");

const JOIN = "join"; // the id of our request to enter, which an error may answer
const ECHO_TIMEOUT = 10_000; // ms until a message that the room did not repeat counts as failed
const MOST_LINES = 500;

const outbox = new Map(); // id → {id, text, item, timer, state}
let joined = false, counter = 0;

// ---- connection

const socket = new Socket(`/ws/chat/${room}/`, {
  opened: () => socket.send({ type: "join", id: JOIN, name: me }),
  received: receive,
  lost() {
    joined = false;
    for (const entry of outbox.values()) {
      if (entry.state === "sending") fail(entry, "The connection broke; perhaps not sent.");
    }
  },
});

// ---- what the server says

function receive(message) {
  if (message.type === "joined") {
    joined = true;
    socket.works();
    for (const entry of outbox.values()) if (entry.state === "waiting") transmit(entry);
  } else if (message.type === "message") {
    if (outbox.has(message.id)) forget(outbox.get(message.id));
    addMessage(message.name, message.text, message.id !== null);
  } else if (message.type === "notice" || message.type === "announcement") {
    addLine(message.type, element("p", "", message.text));
  } else if (message.type === "interrupted") {
    show("away", "Redis is away…");
  } else if (message.type === "gap") {
    if (joined) show("here", "Connected");
    const text = `Away for ${duration(message.seconds)}: lines may be missing here.`;
    addLine("notice", element("p", "", text));
  } else if (message.type === "error" && message.id === JOIN) {
    if (message.retry) return socket.retry();
    socket.stop();
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
  socket.send({ type: "say", id: entry.id, text: entry.text });
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
  keepDown(scroller, () => {});
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
  keepDown(scroller, () => lines.append(item));
  if (lines.childElementCount > MOST_LINES) lines.firstElementChild.remove();
  return item;
}
