/**
 * The judgement of the campaign on the queue, apart from any I/O. Every count is 0 in health.
 *
 *   lost        acknowledged to its producer, and neither handled by a group nor among its dead letters
 *   unexpected  in the topic, handled or a dead letter, though nobody published it or it was not hopeless
 *   doubled     twice in the topic, or twice among the dead letters of a group
 *   misplaced   a key's messages lie in the topic in another order than its producer sent them
 *   inverted    an ordered group came to a message before the one before it was finished
 *   effects     of a consume transaction: a message whose effect is missing, or was done more than once
 *
 * Handled twice is allowed, and counted: who dies before his commit has it done again. So is the result of a handler that was paused
 * past its lease: the sink of an ordered group refuses it by its token, as every sink should.
 */

import { failuresOf, GROUPS, type HandlerLine, isHopeless, type PlannedGroup, type ProducerLine } from "./mq-plan.ts";

export interface MqVerdict {
  lost: number;
  unexpected: number;
  doubled: number;
  misplaced: number;
  inverted: number;
  effects: number;
}

export interface Numbered {
  readonly key: string;
  readonly n: number;
}

export interface MqFindings {
  readonly produced: readonly ProducerLine[];
  readonly handled: readonly HandlerLine[];
  /** What lies in the topic, each partition in its order. */
  readonly entries: readonly Numbered[];
  /** By group. */
  readonly dead: ReadonlyMap<string, readonly Numbered[]>;
  /** By group with effects. */
  readonly effects: ReadonlyMap<string, Effects>;
}

export interface Effects {
  /** `<key>/<n>` -> how often it was written. */
  readonly written: ReadonlyMap<string, number>;
  /** What lies in the topic of its effects, each partition in its order. */
  readonly entries: readonly Numbered[];
}

export interface MqJudgement {
  readonly verdict: MqVerdict;
  readonly figures: {
    readonly published: number;
    /** By all groups, each message once. */
    readonly handled: number;
    readonly repeated: number;
    /** Results of those who had lost their lease. */
    readonly refused: number;
    readonly buried: number;
    /** Deliveries that the plan let fail. */
    readonly planned: number;
  };
  /** What was wrong, the first ones in words. */
  readonly examples: readonly string[];
}

const EXAMPLES_MAX = 20;

type Wrong = (kind: keyof MqVerdict, text: string) => void;

export function judgeMq({ produced, handled, entries, dead, effects }: MqFindings): MqJudgement {
  const verdict: MqVerdict = { lost: 0, unexpected: 0, doubled: 0, misplaced: 0, inverted: 0, effects: 0 };
  const examples: string[] = [];
  const wrong: Wrong = (kind, text) => {
    verdict[kind] += 1;
    if (examples.length < EXAMPLES_MAX) examples.push(`${kind}: ${text}`);
  };
  const attempted = new Map<string, number>();
  const acknowledged = new Map<string, number>();
  for (const [e, key, , to] of produced) {
    const of = e === "ok" ? acknowledged : attempted;
    of.set(key, Math.max(of.get(key) ?? 0, to));
  }
  const isKnown = ({ key, n }: Numbered) => n >= 1 && n <= (attempted.get(key) ?? 0);

  const lastInTopic = new Map<string, number>();
  for (const entry of entries) {
    const { key, n } = entry;
    const last = lastInTopic.get(key) ?? 0;
    if (!isKnown(entry)) wrong("unexpected", `${key} ${n} in the topic`);
    else if (n <= last) wrong(n === last ? "doubled" : "misplaced", `${key} ${n} lies behind ${last}`);
    else if (n > last + 1) wrong("lost", `${key}: ${last + 1}..${n - 1} are not in the topic`);
    lastInTopic.set(key, Math.max(last, n));
  }
  for (const [key, to] of acknowledged) {
    const last = lastInTopic.get(key) ?? 0;
    if (last < to) wrong("lost", `${key}: ${last + 1}..${to} are not in the topic`);
  }

  const figures = { published: entries.length, handled: 0, repeated: 0, refused: 0, buried: 0, planned: 0 };
  for (const planned of GROUPS) {
    const { group } = planned;
    const letters = dead.get(group) ?? [];
    const given = new Set<string>();
    for (const letter of letters) {
      const name = `${letter.key} ${letter.n}`;
      if (!isKnown(letter) || !isHopeless(letter.n)) wrong("unexpected", `${group} buried ${name}`);
      if (given.has(name)) wrong("doubled", `${group} buried ${name} twice`);
      given.add(name);
    }
    figures.buried += letters.length;
    const finished = planned.hasEffect
      ? readEffects(planned, effects.get(group)!, isKnown, wrong, figures)
      : readHandled(planned, handled, isKnown, wrong, figures);
    for (const { key, n } of entries) {
      if (isHopeless(n) ? given.has(`${key} ${n}`) : finished.get(key)?.has(n)) continue;
      wrong("lost", `${group} has not finished ${key} ${n}`);
    }
  }
  for (const { n } of entries) figures.planned += failuresOf(n) * GROUPS.length;
  return { verdict, figures, examples };
}

/** By key, the numbers that a group finished. */
function readHandled(
  { group, mode }: PlannedGroup,
  handled: readonly HandlerLine[],
  isKnown: (message: Numbered) => boolean,
  wrong: Wrong,
  figures: { handled: number; repeated: number; refused: number },
): Map<string, Set<number>> {
  const isOrdered = mode === "ordered";
  const finished = new Map<string, Set<number>>();
  const last = new Map<string, { n: number; token: number }>();
  for (const [, of, key, n, token] of handled) {
    if (of !== group) continue;
    if (!isKnown({ key, n })) wrong("unexpected", `${group} handled ${key} ${n}`);
    const before = last.get(key) ?? { n: 0, token: 0 };
    if (isOrdered && token < before.token) {
      figures.refused += 1;
      continue;
    }
    if (isOrdered && n > before.n + 1) wrong("inverted", `${group} finished ${key} ${n} after ${before.n}`);
    last.set(key, { n, token });
    const numbers = finished.get(key) ?? new Set();
    finished.set(key, numbers);
    if (numbers.has(n)) figures.repeated += 1;
    else figures.handled += 1;
    numbers.add(n);
  }
  return finished;
}

/** By key, the numbers whose effect a group has done. */
function readEffects(
  { group, mode }: PlannedGroup,
  { written, entries }: Effects,
  isKnown: (message: Numbered) => boolean,
  wrong: Wrong,
  figures: { handled: number },
): Map<string, Set<number>> {
  const finished = new Map<string, Set<number>>();
  const last = new Map<string, number>();
  for (const message of entries) {
    const { key, n } = message;
    if (!isKnown(message) || isHopeless(n)) wrong("unexpected", `${group} has an effect of ${key} ${n}`);
    if (mode === "ordered" && n < (last.get(key) ?? 0))
      wrong("inverted", `${group}: the effect of ${key} ${n} came late`);
    last.set(key, n);
    const numbers = finished.get(key) ?? new Set();
    finished.set(key, numbers);
    if (numbers.has(n)) wrong("effects", `${group} has published the effect of ${key} ${n} again`);
    else figures.handled += 1;
    numbers.add(n);
    const times = written.get(`${key}/${n}`) ?? 0;
    if (times !== 1) wrong("effects", `${group} has written the effect of ${key} ${n} ${times} times`);
  }
  const isPublished = (name: string) => {
    const [key, n] = name.split("/") as [string, string];
    return finished.get(key)?.has(Number(n)) ?? false;
  };
  for (const name of written.keys())
    if (!isPublished(name)) wrong("effects", `${group} has only written the effect of ${name}`);
  return finished;
}
