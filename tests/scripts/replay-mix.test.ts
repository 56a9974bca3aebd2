/** What is mixed into a replay: the same seed, the same acts; none that would be refused; devices that are offline half the time. */

import { expect, test } from "bun:test";
import { createRandom } from "../../scripts/chaos/random.ts";
import { mixIn } from "../../scripts/replay/mix.ts";
import { planNaps } from "../../scripts/replay/naps.ts";
import type { Act, Plan } from "../../scripts/replay/plan.ts";
import { toPlan } from "../../scripts/replay/plan.ts";

const NICKS = ["ann", "bob", "cid", "dee", "eve"];
const plan: Plan = toPlan(
  Array.from({ length: 600 }, (_, line) => {
    const nick = NICKS[(line * 7 + (line >> 3)) % NICKS.length]!;
    if (line % 50 === 49) return { kind: "left" as const, line, nick };
    return { kind: "said" as const, line, minute: 0, nick, text: `line ${line}` };
  }),
);
const mixed = (seed: number, share = 0.8) =>
  mixIn(plan, { share, devices: 2, owner: "=owner", random: createRandom(seed) });

test("the same seed mixes in the same, another one something else, and nothing is not mixed in", () => {
  expect(mixed(3)).toEqual(mixed(3));
  expect(mixed(3)).not.toEqual(mixed(4));
  expect(mixed(3, 0)).toBe(plan);
});

test("every kind of act comes, of members alone, once per user at a time, and never on what is recalled", () => {
  const present = new Set(["=owner", ...plan.initial]);
  const authors = new Map<number, string>();
  const recalled = new Set<number>();
  const reacted = new Set<string>();
  const counts = new Map<Act["kind"], number>();
  for (const step of mixed(5).steps) {
    if (step.kind === "send") authors.set(step.line, step.user);
    if (step.kind === "join") present.add(step.user);
    if (step.kind === "leave") present.delete(step.user);
    if (step.kind !== "acts") continue;
    expect(new Set(step.acts.map(({ user }) => user)).size).toBe(step.acts.length);
    for (const act of step.acts) {
      counts.set(act.kind, (counts.get(act.kind) ?? 0) + 1);
      expect(present).toContain(act.user);
      if (!("target" in act)) continue;
      expect(authors.has(act.target)).toBe(true);
      if (act.kind === "read") continue;
      expect(recalled).not.toContain(act.target);
      if (act.kind === "edit") expect(act.user).toBe(authors.get(act.target)!);
      if (act.kind === "react") {
        const reaction = `${act.target} ${act.user} ${act.emoji}`;
        expect(reacted.has(reaction)).toBe(!act.on);
        if (act.on) reacted.add(reaction);
        else reacted.delete(reaction);
      }
      if (act.kind === "recall") {
        recalled.add(act.target);
        const others = step.acts.filter(
          (other) => other.kind !== "read" && "target" in other && other.target === act.target,
        );
        expect(others).toEqual([act]);
      }
    }
  }
  expect([...counts.keys()].sort()).toEqual(["edit", "react", "read", "recall", "typing"]);
  expect(Math.min(...counts.values())).toBeGreaterThan(10);
});

test("each user's second device is offline for half of the lines, half of them at any line, and all of them nap", () => {
  const users = Array.from({ length: 400 }, (_, i) => `user-${i}`);
  const lines = 1_000;
  const asleepSince = new Map<string, number>();
  const asleepFor = new Map(users.map((user) => [user, 0]));
  let midway = 0;
  const naps = planNaps(users, lines, createRandom(9));
  for (const { user, falls, atLine } of [...naps, ...users.map((user) => ({ user, falls: "awake", atLine: lines }))]) {
    if (midway === 0 && atLine > lines / 2) midway = asleepSince.size;
    const since = asleepSince.get(user);
    if (falls === "asleep") asleepSince.set(user, since ?? atLine);
    else if (since !== undefined) {
      asleepFor.set(user, asleepFor.get(user)! + atLine - since);
      asleepSince.delete(user);
    }
  }
  for (const count of asleepFor.values()) expect(Math.abs(count - lines / 2)).toBeLessThanOrEqual(4);
  expect(Math.abs(midway - users.length / 2)).toBeLessThan(users.length / 8);
});
