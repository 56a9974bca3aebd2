/**
 * What is known of the hosts that are called: how many calls are under way, who waits, and whether the host answers at all. A host that
 * did not answer 5 times in a row is left alone for a second, doubled up to a minute each time it still does not; then one call
 * tries it. Any HTTP answer, a 500 included, says that the host is there. Memory is bounded by HOSTS_MAX.
 */

/** One slow host may hold so many calls, not all of them, unless its caller says otherwise. */
const UNDER_WAY_MAX = 16;
/** Further ones wait their turn, at most so many; their callers hold them in a bounded window of their own. */
const WAITING_MAX = 256;
const FAILURES_MAX = 5;
const OPEN_FIRST_MS = 1_000;
const OPEN_MAX_MS = 60_000;
/** The one call that tries a host again takes some 10 s at most; the others look again meanwhile. */
const PROBE_LOOK_MS = 1_000;
/** Crowded out: come back. */
const CROWD_MS = 500;
/** Hosts remembered; of those with nothing under way the one called longest ago is forgotten. */
const HOSTS_MAX = 2_000;

interface Host {
  underWay: number;
  waiting: (() => void)[];
  /** In a row, without an answer; of a dark host no more are counted. */
  failures: number;
  /** How often in a row it was tried while dark, in vain. */
  probes: number;
  openUntil: number;
  isProbing: boolean;
}

export interface Slot {
  /** Says how the call ended, and lets the next one begin. */
  release(isAnswered: boolean): void;
}

export class Circuits {
  readonly #hosts = new Map<string, Host>();
  readonly #underWayMax: number;

  constructor(underWayMax = UNDER_WAY_MAX) {
    this.#underWayMax = underWayMax;
  }

  /** Resolves when the call may begin; to a number: not now, again after so many ms. Rejects when `signal` aborts while it waits. */
  async enter(name: string, signal: AbortSignal): Promise<Slot | number> {
    const host = this.#host(name);
    const isProbe = isDark(host);
    if (isProbe) {
      if (performance.now() < host.openUntil) return untilOpen(host);
      if (host.isProbing || host.underWay >= this.#underWayMax) return PROBE_LOOK_MS;
      host.isProbing = true;
      host.underWay += 1;
    } else if (host.underWay < this.#underWayMax) host.underWay += 1;
    else if (host.waiting.length >= WAITING_MAX) return CROWD_MS;
    else {
      await turn(host, signal);
      if (isDark(host)) {
        next(host);
        return untilOpen(host);
      }
    }
    return { release: (isAnswered) => release(host, isAnswered, isProbe) };
  }

  #host(name: string): Host {
    const known = this.#hosts.get(name);
    if (known) {
      this.#hosts.delete(name);
      this.#hosts.set(name, known);
      return known;
    }
    if (this.#hosts.size >= HOSTS_MAX) this.#forgetOne();
    const host: Host = { underWay: 0, waiting: [], failures: 0, probes: 0, openUntil: 0, isProbing: false };
    this.#hosts.set(name, host);
    return host;
  }

  #forgetOne(): void {
    for (const [name, { underWay }] of this.#hosts) {
      if (underWay > 0) continue;
      this.#hosts.delete(name);
      return;
    }
  }
}

function isDark({ failures }: Host): boolean {
  return failures >= FAILURES_MAX;
}

function untilOpen({ openUntil }: Host): number {
  return Math.max(1, Math.ceil(openUntil - performance.now()));
}

/** Resolves with the place of one that has ended: `underWay` stays as it is. */
function turn(host: Host, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const begin = () => {
      signal.removeEventListener("abort", leave);
      resolve();
    };
    const leave = () => {
      host.waiting = host.waiting.filter((other) => other !== begin);
      reject(signal.reason);
    };
    if (signal.aborted) return reject(signal.reason);
    signal.addEventListener("abort", leave, { once: true });
    host.waiting.push(begin);
  });
}

function release(host: Host, isAnswered: boolean, isProbe: boolean): void {
  if (isProbe) host.isProbing = false;
  if (isAnswered) {
    host.failures = 0;
    host.probes = 0;
  } else if (isProbe || !isDark(host)) {
    host.failures = Math.min(FAILURES_MAX, host.failures + 1);
    if (isProbe) host.probes += 1;
    if (isDark(host)) {
      host.openUntil = performance.now() + Math.min(OPEN_MAX_MS, OPEN_FIRST_MS * 2 ** Math.min(host.probes, 10));
    }
  }
  next(host);
}

function next(host: Host): void {
  const begin = host.waiting.shift();
  if (begin) begin();
  else host.underWay -= 1;
}
