// The checkout: asks to pay, counts down, and shows in plain words how it ended.

import { Socket, show } from "../home/socket.js";

const find = (id) => document.querySelector(`#${id}`);
const steps = { pay: find("pay"), waiting: find("waiting"), outcome: find("outcome") };

const OUTCOMES = {
  approved: ["Paid", "The bank has approved it. Enjoy your tea."],
  declined: ["Declined", "The bank has declined it. Nothing was paid."],
  timeout: ["No answer", "The bank has said nothing in time. The order is closed, nothing was paid."],
  interrupted: [
    "Not known",
    "The link to Redis was lost while we waited, and the bank's answer may be lost with it. " +
      "Ask the bank before you pay again.",
  ],
  gone: ["Given up", "You left the order, and the shop does not wait for it any more."],
  broken: ["Not known", "The connection to the shop broke, and with it the order. Ask the bank."],
  failed: ["Not ordered", ""],
};

let countdown, step = "pay";

const socket = new Socket("/ws/payments/", {
  opened: () => socket.works(),
  received(message) {
    if (message.type === "waiting") wait(message);
    else if (message.type === "outcome") end(message.outcome, detailOf(message));
    else if (message.type === "interrupted") show("away", "Redis is away…");
    else if (message.type === "gap") show("here", "Connected");
    else if (message.type === "error") end("failed", message.text);
  },
  lost() {
    if (step === "waiting") end("broken");
  },
});

steps.pay.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!socket.isWorking) return end("failed", "There is no connection; it comes back by itself.");
  const seconds = Number(new FormData(steps.pay).get("seconds"));
  steps.pay.querySelector("button").disabled = true;
  socket.send({ type: "pay", id: "pay", seconds });
});

find("give-up").onclick = () => {
  socket.stop(); // what the shop sees when the page is closed
  end("gone");
  socket.connect();
};

find("again").onclick = () => {
  go("pay");
  steps.pay.querySelector("button").focus();
};

function wait({ order, seconds }) {
  const ends = performance.now() + seconds * 1000;
  find("order").textContent = order;
  find("bank").href = find("bank").dataset.place.replace("00000000", order);
  if (find("command")) find("command").textContent = `redis-cli PUBLISH payment.${order} approved`;
  find("time").max = seconds;
  const tick = () => {
    const left = Math.max(0, (ends - performance.now()) / 1000);
    find("time").value = left;
    find("left").textContent = `${Math.ceil(left)} s`;
  };
  countdown = setInterval(tick, 200);
  tick();
  go("waiting");
}

function end(outcome, detail = "") {
  clearInterval(countdown);
  const [title, text] = OUTCOMES[outcome];
  steps.outcome.dataset.outcome = outcome;
  find("outcome-title").textContent = title;
  find("outcome-text").textContent = `${text} ${detail}`.trim();
  go("outcome");
}

function detailOf({ order, outcome, detail }) {
  if (outcome === "interrupted") return `Order ${order}: ${detail}.`;
  const isOddAnswer = outcome === "declined" && detail !== "declined";
  return isOddAnswer ? `Order ${order}: it said “${detail}”.` : `Order ${order}.`;
}

/** Show one step; whoever cannot see it hears its title. */
function go(next) {
  step = next;
  for (const [name, part] of Object.entries(steps)) part.hidden = name !== next;
  steps.pay.querySelector("button").disabled = false;
  steps[next].querySelector("h2")?.focus();
}
