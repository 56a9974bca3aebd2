/**
 * kill -9 while a replay runs: each named role, and Redis, so many times, each at a moment drawn from the seed. The supervisor
 * restarts what dies; clients come back by themselves. What was struck, and when, is kept for the report.
 */

import { createRandom } from "../chaos/random.ts";

export interface KillOrder {
  /** Roles, or `redis`. */
  readonly targets: readonly string[];
  /** Of each. */
  readonly times: number;
  readonly seed: number;
}

export interface Kill {
  /** The process: the role, and a number where there are several. */
  readonly name: string;
  readonly pid: number;
  /** Lines acknowledged at that moment. */
  readonly atLine: number;
  readonly atMs: number;
}

export interface Victim {
  readonly role: string;
  readonly name: string;
  readonly pid: number;
}

/** Strikes fall between these shares of the log: something to lose before, something to recover with behind. */
const FIRST_SHARE = 0.05;
const LAST_SHARE = 0.9;
/** A strike waits a random while besides, so that it falls anywhere in the processes' own periods. */
const DELAY_MS_MAX = 300;
/** One that is still restarting from the strike before is waited for. */
const RESTART_MS_MAX = 30_000;
const POLL_MS = 10;

export interface Kills {
  readonly done: readonly Kill[];
  /** Resolves when every strike has fallen. Rejects when a target does not come back. */
  run(): Promise<void>;
  /** The replay is over: what has not fallen does not fall. */
  stop(): void;
}

export function createKills(
  order: KillOrder,
  lines: number,
  sentLines: () => number,
  processes: () => readonly Victim[],
): Kills {
  const random = createRandom(order.seed);
  const done: Kill[] = [];
  let isStopped = false;
  const strikes = order.targets
    .flatMap((target) => Array.from({ length: order.times }, () => target))
    .map((target) => ({
      target,
      atLine: Math.floor(lines * (FIRST_SHARE + (LAST_SHARE - FIRST_SHARE) * random.next())),
      delayMs: random.next() * DELAY_MS_MAX,
    }))
    .sort((a, b) => a.atLine - b.atLine);

  async function until(isTrue: () => boolean, withinMs = Number.POSITIVE_INFINITY): Promise<boolean> {
    const deadline = performance.now() + withinMs;
    while (!isTrue()) {
      if (isStopped || performance.now() > deadline) return false;
      await Bun.sleep(POLL_MS);
    }
    return true;
  }

  return {
    done,
    async run() {
      for (const { target, atLine, delayMs } of strikes) {
        if (!(await until(() => sentLines() >= atLine))) return;
        await Bun.sleep(delayMs);
        const fallen = new Set(done.map(({ pid }) => pid));
        const candidates = () => processes().filter(({ role, pid }) => role === target && pid > 0 && !fallen.has(pid));
        if (!(await until(() => candidates().length > 0, RESTART_MS_MAX))) {
          if (isStopped) return;
          throw new Error(`there is no ${target} to kill: it did not come back within ${RESTART_MS_MAX} ms`);
        }
        const { name, pid } = random.pick(leastStruck(candidates(), done));
        process.kill(pid, "SIGKILL");
        done.push({ name, pid, atLine: sentLines(), atMs: performance.now() });
      }
    },
    stop() {
      isStopped = true;
    },
  };
}

/** Of several of a role those whose turn it is: clients flee to the others, and to kill an empty one proves little. */
function leastStruck(candidates: readonly Victim[], done: readonly Kill[]): Victim[] {
  const strikes = candidates.map(({ name }) => done.filter((kill) => kill.name === name).length);
  const least = Math.min(...strikes);
  return candidates.filter((_, i) => strikes[i] === least);
}
