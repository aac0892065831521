// The page of rooms: asks to join, leave and write, and shows which rooms are active.

import { Socket, clock, duration, element, hue, keepDown, show } from "../home/socket.js";

const joinedList = document.querySelector("#joined");
const scroller = document.querySelector("#scroll");
const lines = document.querySelector("#lines");
const target = document.querySelector("#target");
const problem = document.querySelector("#problem");
const roomInput = document.querySelector("#room");
const nameInput = document.querySelector("#name");
const textInput = document.querySelector("#text");

const STATES = { joining: "joining…", active: "active", waiting: "waits for Redis", away: "reconnecting…" };
const PREFIX = "room."; // what the Redis channels of rooms begin with
const MOST_LINES = 500;

const rooms = new Map(); // name → the item in the list of rooms
const asked = new Map(); // id → what we asked for, until it is answered
let counter = 0;

const socket = new Socket("/ws/rooms/", {
  opened() {
    socket.works();
    problem.textContent = "";
    asked.clear();
    for (const room of rooms.keys()) join(room);
  },
  received,
  lost() {
    for (const room of rooms.keys()) mark(room, "away");
  },
});

function ask(request) {
  const id = String(++counter);
  const { room, ...rest } = request;
  asked.set(id, request);
  socket.send({ ...rest, id, channel: PREFIX + room });
}

// ---- what the server says

function received(message) {
  const room = message.channel?.slice(PREFIX.length);
  if (message.type === "active") {
    if (rooms.has(room)) mark(room, "active");
  } else if (message.type === "left") {
    drop(room);
  } else if (message.type === "line") {
    addLine(room, message.text);
  } else if (message.type === "written") {
    asked.delete(message.id);
  } else if (message.type === "interrupted") {
    show("away", "Redis is away…");
    for (const room of rooms.keys()) mark(room, "waiting");
  } else if (message.type === "gap") {
    show("here", "Connected");
    problem.textContent = "";
    const length = duration(message.seconds);
    addItem("notice", element("p", "", `Away for ${length}: lines may be missing here.`));
  } else if (message.type === "error") {
    failed(message);
  }
}

function failed({ id, text }) {
  const request = asked.get(id);
  asked.delete(id);
  if (request?.type === "join") drop(request.room);
  if (request?.type === "write" && !textInput.value) textInput.value = request.text;
  problem.textContent = request ? `${request.room}: ${text}` : text;
}

// ---- rooms

document.querySelector("#join").addEventListener("submit", (event) => {
  event.preventDefault();
  const room = roomInput.value.trim().toLowerCase();
  roomInput.value = "";
  if (rooms.has(room)) choose(room);
  else add(room);
});

function add(room) {
  problem.textContent = "";
  const item = element("li", "chip");
  const leave = element("button", "", "×");
  leave.ariaLabel = `Leave ${room}`;
  leave.onclick = () => (socket.isWorking ? ask({ type: "leave", room }) : drop(room));
  item.style.setProperty("--hue", hue(room));
  item.append(element("b", "", room), element("small"), leave);
  rooms.set(room, item);
  joinedList.append(item);
  target.append(new Option(room, room));
  choose(room);
  mark(room, "away");
  if (socket.isWorking) join(room);
}

function join(room) {
  mark(room, "joining");
  ask({ type: "join", room });
}

function mark(room, state) {
  const item = rooms.get(room);
  item.dataset.state = state;
  item.querySelector("small").textContent = STATES[state];
}

function drop(room) {
  rooms.get(room)?.remove();
  rooms.delete(room);
  [...target.options].find((option) => option.value === room)?.remove();
}

function choose(room) {
  target.value = room;
  textInput.focus();
}

// ---- lines

document.querySelector("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = textInput.value.trim();
  if (!text) return;
  problem.textContent = socket.isWorking ? "" : "Not sent: no connection. It comes back by itself.";
  if (!socket.isWorking) return;
  ask({ type: "write", room: target.value, name: nameInput.value, text });
  textInput.value = "";
});

function addLine(room, line) {
  const [, name, text] = line.match(/^(.{1,24}?): (.*)$/s) ?? [null, "", line];
  const tag = element("span", "tag", room);
  tag.style.setProperty("--hue", hue(room));
  const said = element("p", "", "");
  if (name) said.append(element("b", "", name), " ");
  said.append(text);
  addItem("entry", tag, said, element("time", "", clock()));
}

function addItem(kind, ...children) {
  const item = element("li", kind);
  item.append(...children);
  keepDown(scroller, () => lines.append(item));
  if (lines.childElementCount > MOST_LINES) lines.firstElementChild.remove();
}

add("lobby");
