/** The rate of an errand, looked at as often as runners do. What runners do with it is tested with redrives and broadcasts. */

import { expect, test } from "bun:test";
import { spendRate } from "../../lib/mq/index.ts";

const LOOK_MS = 20;
const BURST_MS = 200;

test.each([0.4, 1, 3, 7, 50, 5_000])(
  "%d a second is kept to, and after a pause made up for by a fifth of a second, or by one",
  (perSecond) => {
    let [spentMs, nowMs, spent] = [0, 0, 0];
    const spend = () => {
      const allowed = spendRate({ perSecond, spentMs }, nowMs, BURST_MS);
      spentMs = allowed.spentMs;
      spent += allowed.count;
      return allowed.count;
    };
    const seconds = 10;
    for (; nowMs < seconds * 1_000; nowMs += LOOK_MS) spend();
    expect(spent / (seconds * perSecond)).toBeWithin(0.7, 1.001);
    nowMs += 60_000;
    expect(spend()).toBe(Math.max(1, Math.floor((BURST_MS * perSecond) / 1_000)));
  },
);
