// What the console does in a browser. Pages are rendered by the daemon and work without this; it keeps them up to date,
// and adds keys, the theme switch and the tail of events. No inline code, nothing evaluated, nothing from elsewhere.
"use strict";
(() => {
  const GATHER_MS = 400; // events that come together cost one refresh
  const REFRESH_MS_MIN = 1500; // between two refreshes
  const POLL_MS = 5000; // for what changes without an event: peers, ages, electorates
  const RETRY_MS_MIN = 1000; // between two attempts to listen; doubled up to the next
  const RETRY_MS_MAX = 10000;
  const TAIL_MOST = 500; // rows of the tail of events, and events that are held while it is paused
  const TAIL_MS = 150; // events that come together are shown together
  const CHORD_MS = 1500; // for the second key of two
  const root = document.documentElement;
  const find = (id) => document.getElementById(id);

  const stored = (name) => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null; // storage can be forbidden
    }
  };
  const store = (name, value) => {
    try {
      if (value === null) localStorage.removeItem(name);
      else localStorage.setItem(name, value);
    } catch {
      // The choice then holds for this page alone.
    }
  };

  // -- theme ----------------------------------------------------------------------------------------------------------

  const THEMES = ["auto", "light", "dark"];
  const themeButton = find("theme");
  const showTheme = () => {
    themeButton.textContent = `Theme: ${root.dataset.theme || "auto"}`;
  };
  const nextTheme = () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    store("p2pnodes-theme", next === "auto" ? null : next);
    showTheme();
  };
  themeButton.hidden = false;
  themeButton.addEventListener("click", nextTheme);
  showTheme();

  // -- moments: the page holds them as they are, people see how long ago they were ---------------------------------------

  const UNITS = [["day", 86400], ["h", 3600], ["min", 60]];
  const span = (seconds) => {
    for (const [unit, length] of UNITS) {
      if (seconds >= 2 * length) {
        const count = Math.floor(seconds / length);
        return unit === "day" ? `${count} days` : `${count} ${unit}`;
      }
    }
    return `${Math.max(0, Math.round(seconds))} s`;
  };
  const tellTimes = () => {
    const now = Date.now();
    for (const element of document.querySelectorAll("time[datetime]")) {
      const seconds = (now - Date.parse(element.dateTime)) / 1000;
      if (Number.isNaN(seconds)) continue;
      const text = seconds < -1 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
      if (element.textContent !== text) element.textContent = text;
    }
  };

  // -- keeping up to date -----------------------------------------------------------------------------------------------

  const link = find("link");
  const stale = find("stale");
  const STATES = { live: "Live", lost: "Reconnecting…", polling: "Updates every 5 s", paused: "Paused" };
  let state = "";
  const show = (name) => {
    if (name === state) return;
    state = name;
    link.dataset.state = name;
    link.querySelector("span").textContent = STATES[name];
    stale.hidden = name !== "lost";
  };

  let known = new Set(); // rows before the last refresh, and of which address
  let knownUrl = "";
  let held = null; // events that came while the tail was paused, the latest last
  let source = null;
  let reached = false; // whether the daemon answered the last time
  let position = null; // of the last event that the tail heard: a new stream goes on behind it
  let attempt = 0; // to listen: one that was given up does nothing more
  let retryMs = RETRY_MS_MIN;
  let retry = 0;
  let waiting = 0;
  let refreshedAt = 0;

  const refresh = () => {
    clearTimeout(waiting);
    waiting = 0;
    refreshedAt = Date.now();
    const live = find("live");
    // The tail of events is fetched anew only while nothing is told to it: what it heard last must not be lost.
    if (find("tail") && (source || held !== null)) return;
    if (live && window.htmx) window.htmx.trigger(live, "refresh");
  };
  const refreshSoon = () => {
    if (waiting || document.hidden) return;
    waiting = setTimeout(refresh, Math.max(GATHER_MS, refreshedAt + REFRESH_MS_MIN - Date.now()));
  };

  const lose = (why) => {
    reached = false;
    stale.textContent = why;
    show("lost");
  };
  const SILENT = "The daemon does not answer. What is shown may be old; this page goes on by itself when it is back.";
  const UNABLE = "The daemon cannot show this at the moment. What is shown may be old; this page tries again by itself.";
  const close = () => {
    attempt += 1;
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  };
  const latest = async () => {
    try {
      const answer = await fetch("/events?newest_first=true&limit=1");
      const [event] = answer.ok ? await answer.json() : [];
      return event ? event.position : 0;
    } catch {
      return 0; // the stream tells that the daemon is gone
    }
  };
  const listen = async () => {
    close();
    const mine = attempt;
    const tail = find("tail");
    const query = new URLSearchParams();
    if (tail) {
      if (position === null) position = Number(tail.dataset.position);
      const end = await latest();
      if (mine !== attempt) return;
      if (end > position + TAIL_MOST) {
        // More than the tail holds was missed, overnight say: it begins anew, or while it is paused, with the latest.
        if (held === null) {
          location.reload();
          return;
        }
        position = end - TAIL_MOST;
      }
      query.set("after", position);
      for (const name of ["kind", "state"]) {
        const wanted = tail.getAttribute(`data-where-${name}`);
        if (wanted) query.set(name, wanted);
      }
    }
    const stream = new EventSource(`/events/stream?${query}`);
    source = stream;
    stream.onopen = () => {
      retryMs = RETRY_MS_MIN;
      reached = true;
      show("live");
      refreshSoon(); // without a tail the stream begins at the end: what came before it is not told
    };
    stream.addEventListener("event", (event) => {
      position = Number(event.lastEventId);
      if (find("tail")) tell(event.data);
      else refreshSoon();
    });
    stream.addEventListener("reset", (event) => {
      position = Number(event.lastEventId);
      if (find("tail")) location.reload(); // another database: what is shown is not of this one
      else refreshSoon();
    });
    stream.onerror = () => {
      stream.close(); // the browser's own retry gives up for good on some answers
      if (source !== stream) return;
      source = null;
      if (reached && state === "polling") show("polling");
      else lose(SILENT);
      retry = setTimeout(listen, retryMs * (0.75 + Math.random() / 2));
      retryMs = Math.min(RETRY_MS_MAX, 2 * retryMs);
      refreshSoon(); // tells a full stream from a daemon that is gone
    };
  };

  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.body.addEventListener(name, () => lose(SILENT));
  }
  document.body.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status >= 500) lose(UNABLE);
  });
  document.body.addEventListener("htmx:afterOnLoad", (event) => {
    if (event.detail.xhr.status >= 500) return;
    reached = true;
    show(source && source.readyState === EventSource.OPEN ? "live" : "polling");
  });
  document.body.addEventListener("htmx:afterSwap", () => {
    const live = find("live");
    if (live && live.dataset.release !== release) location.reload(); // another version serves now
    const tail = find("tail");
    if (tail) position = Number(tail.dataset.position);
    settle();
  });
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (find("tail") && source) event.detail.shouldSwap = false;
    // A refresh that began before somebody searched or turned the page: what it brings is not what is shown now.
    const { elt, path } = event.detail.requestConfig;
    if (elt.id === "live" && path !== elt.getAttribute("hx-get")) event.detail.shouldSwap = false;
    known = new Set([...document.querySelectorAll("#live tbody tr[id]")].map((row) => row.id));
    knownUrl = location.href;
  });

  const release = find("live") ? find("live").dataset.release : "";
  const settle = () => {
    tellTimes();
    for (const button of document.querySelectorAll(".copy")) button.hidden = !navigator.clipboard;
    if (known.size && knownUrl === location.href) {
      for (const row of document.querySelectorAll("#live .list tbody tr[id]")) {
        if (!known.has(row.id)) row.classList.add("fresh");
      }
    }
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      show("paused");
    } else {
      listen();
      refreshSoon();
    }
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => {
    if (event.persisted) {
      listen();
      refreshSoon();
    }
  });
  setInterval(() => {
    if (document.hidden) return;
    const live = find("live");
    if (live && (live.hasAttribute("data-poll") || state !== "live")) refreshSoon();
  }, POLL_MS);
  setInterval(() => {
    if (!document.hidden) tellTimes();
  }, 1000);

  // -- the tail of events -------------------------------------------------------------------------------------------------

  const pause = find("pause");
  const short = (text) => (text.length > 20 ? `${text.slice(0, 8)}…${text.slice(-4)}` : text);
  const visible = (text) =>
    String(text).replace(/[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]/gu, (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`);
  const prepend = (event) => {
    const tail = find("tail");
    const row = find("tail-row").content.firstElementChild.cloneNode(true);
    const texts = {
      position: Number(event.position).toLocaleString("en-US"),
      kind: event.kind,
      reason: event.reason || "",
      author: short(event.author),
      log: `${event.node_key.slice(0, 8)}/${event.number}`,
      seq: `seq ${event.seq}`,
      id: short(event.id),
      at: event.at,
      bytes: `${Number(event.bytes).toLocaleString("en-US")} B`,
    };
    const titles = { author: event.author, id: event.id, log: `${event.node_key}/${event.number}`, at: event.at };
    for (const cell of row.querySelectorAll("[data-of]")) {
      const name = cell.dataset.of;
      if (name === "state") {
        const pill = document.querySelector(`template[data-pill="${CSS.escape(event.state)}"]`);
        if (pill) cell.append(pill.content.cloneNode(true));
        else cell.textContent = visible(event.state);
      } else cell.textContent = visible(texts[name]);
      if (name in titles) cell.title = visible(titles[name]);
      if (name === "at") cell.dateTime = event.at;
      if (name === "reason" && !event.reason) cell.remove();
    }
    tail.tBodies[0].prepend(row);
    while (tail.tBodies[0].rows.length > TAIL_MOST) tail.tBodies[0].lastElementChild.remove();
    find("tail-empty").hidden = true;
  };
  const arrived = []; // not shown yet; of more than fit in the table, only the latest
  let showing = 0;
  const showArrived = () => {
    showing = 0;
    for (const event of arrived.splice(0)) prepend(event);
    tellTimes();
    find("tail-text").textContent = `The latest ${find("tail").tBodies[0].rows.length}`;
  };
  const tell = (data) => {
    const event = JSON.parse(data);
    const line = held === null ? arrived : held;
    line.push(event);
    if (line.length > TAIL_MOST) line.shift();
    if (held !== null) pause.textContent = `Go on (${held.length}${held.length === TAIL_MOST ? "+" : ""} new)`;
    else if (!showing) showing = setTimeout(showArrived, TAIL_MS);
  };
  const togglePause = () => {
    if (!pause) return;
    const waited = held;
    held = held === null ? [] : null;
    pause.setAttribute("aria-pressed", String(held !== null));
    pause.textContent = held === null ? "Pause" : "Go on";
    arrived.push(...(waited || []));
    showArrived();
  };
  if (pause) {
    pause.hidden = false;
    pause.addEventListener("click", togglePause);
  }

  // -- forms and small things -----------------------------------------------------------------------------------------------

  for (const form of document.querySelectorAll("form[data-submit-on-change]")) {
    form.addEventListener("change", () => form.requestSubmit());
  }
  document.body.addEventListener("htmx:configRequest", (event) => {
    // Empty fields say nothing: URLs that people share stay short.
    const { parameters } = event.detail;
    for (const name of Object.keys(parameters)) if (parameters[name] === "") delete parameters[name];
  });
  for (const form of document.querySelectorAll("form")) {
    form.addEventListener("submit", () => {
      if (form.hasAttribute("hx-get")) return;
      for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
      setTimeout(() => {
        for (const field of form.elements) field.disabled = false;
      });
    });
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      button.textContent = "not allowed";
    }
    setTimeout(() => {
      button.textContent = "copy";
    }, 1500);
  });

  // -- keys -----------------------------------------------------------------------------------------------------------------

  const keysOn = find("keys-on");
  if (keysOn) {
    keysOn.closest(".choice").hidden = false;
    keysOn.checked = stored("p2pnodes-keys") !== "off";
    keysOn.addEventListener("change", () => store("p2pnodes-keys", keysOn.checked ? null : "off"));
  }
  let chordUntil = 0;
  const typing = (element) => element.closest("input:not([type=checkbox]), select, textarea, [contenteditable]");
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && typing(event.target)) {
      event.target.blur();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing(event.target)) return;
    if (stored("p2pnodes-keys") === "off") return;
    if (Date.now() < chordUntil) {
      chordUntil = 0;
      const target = document.querySelector(`.side nav a[data-key="${CSS.escape(event.key)}"]`);
      if (target) {
        event.preventDefault();
        target.click();
      }
      return;
    }
    const page = { "[": "before", "]": "after" }[event.key];
    if (event.key === "/") find("search")?.focus();
    else if (event.key === "g") chordUntil = Date.now() + CHORD_MS;
    else if (event.key === "r") refresh();
    else if (event.key === "s") togglePause();
    else if (event.key === "t") nextTheme();
    else if (event.key === "?") document.querySelector('.foot a[href$="/keyboard"]').click();
    else if (page) document.querySelector(`#live a[data-page="${page}"]`)?.click();
    else return;
    event.preventDefault();
  });

  const nav = document.querySelector(".side nav");
  const current = nav.querySelector('[aria-current="page"]');
  if (current) nav.scrollLeft = current.offsetLeft - (nav.clientWidth - current.offsetWidth) / 2; // on narrow screens
  settle();
  if (!document.hidden) listen();
})();
