// One WebSocket at a time, replaced whenever it is lost; what every page here builds on.

const FIRST_DELAY = 500, LONGEST_DELAY = 10_000; // ms between attempts to connect

export class Socket {
  #path; #page; #current; #timer;
  #failures = 0;
  #isWorking = false;

  /**
   * Connect to a path of this site, again and again.
   *
   * `page` has three functions: `opened()`, `received(message)`, and `lost()`, which is called
   * after each loss and each failed attempt. Once all is as it should be, the page calls `works()`.
   */
  constructor(path, page) {
    this.#path = path;
    this.#page = page;
    addEventListener("online", () => this.#isWorking || this.connect());
    this.connect();
  }

  get isWorking() {
    return this.#isWorking;
  }

  connect() {
    clearTimeout(this.#timer);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.#current = new WebSocket(`${scheme}//${location.host}${this.#path}`));
    const ifCurrent = (action) => (event) => socket === this.#current && action(event);
    socket.onopen = ifCurrent(() => this.#page.opened());
    socket.onmessage = ifCurrent((event) => this.#page.received(JSON.parse(event.data)));
    socket.onclose = ifCurrent(() => this.#lost());
  }

  send(message) {
    this.#current.send(JSON.stringify(message));
  }

  /** All is well: show so, and let the next loss be a first one again. */
  works() {
    this.#isWorking = true;
    this.#failures = 0;
    show("here", "Connected");
  }

  /** Give this connection up; `connect()` makes another. */
  stop() {
    clearTimeout(this.#timer);
    this.#isWorking = false;
    const socket = this.#current;
    this.#current = null;
    socket?.close();
    show("away", "Not connected");
  }

  /** Give this connection up and come back later. */
  retry() {
    this.stop();
    this.#lost();
  }

  #lost() {
    this.#isWorking = false;
    // Jitter keeps a thousand pages from coming back in the same instant.
    const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures++);
    this.#timer = setTimeout(() => this.connect(), delay * (0.5 + Math.random() / 2));
    show("away", this.#failures < 3 ? "Reconnecting…" : "Still reconnecting…");
    this.#page.lost();
  }
}

/** Set the page's status line: "here", or "away" with the reason. */
export function show(state, text) {
  const line = document.querySelector("#status");
  line.dataset.state = state;
  if (line.textContent !== text) line.textContent = text;
}

/** Make an element; text from others only ever becomes textContent. */
export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export function clock() {
  return new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

/** Say how long something took. */
export function duration(seconds) {
  return seconds < 1 ? `${Math.ceil(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

/** A colour for a name, the same each time. */
export function hue(name) {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}

/** Follow a list that grows, except for somebody who has scrolled up to read. */
export function keepDown(scroller, change) {
  const below = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  change();
  if (below < 80) scroller.scrollTop = scroller.scrollHeight;
}
