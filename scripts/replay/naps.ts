/**
 * When devices are offline: every user's second one for two quarters of the log, beginning somewhere that is drawn from the seed. So
 * half of them are away at any moment, each is away half the time, and comes back to catch up at least once.
 */

import type { Random } from "../chaos/random.ts";

export interface Nap {
  readonly user: string;
  readonly falls: "asleep" | "awake";
  readonly atLine: number;
}

/** By the line at which they happen: those of line 0 before anything is said. */
export function planNaps(users: readonly string[], lines: number, random: Random): Nap[] {
  const naps: Nap[] = [];
  for (const user of users) {
    const shift = random.next();
    for (const quarter of [0, 1, 2, 3]) {
      const falls = quarter % 2 === 0 ? "asleep" : "awake";
      naps.push({ user, falls, atLine: Math.floor(((shift + quarter / 4) % 1) * lines) });
    }
    // Which quarter the log begins in.
    if (shift % 0.5 >= 0.25) naps.push({ user, falls: "asleep", atLine: 0 });
  }
  return naps.sort((a, b) => a.atLine - b.atLine);
}
