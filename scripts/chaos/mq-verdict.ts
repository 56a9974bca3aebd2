/**
 * The judgement of the campaign on the queue, apart from any I/O. Every count is 0 in health.
 *
 *   lost        acknowledged to its producer, and neither handled by a group nor among its dead letters
 *   unexpected  in the topic, handled or a dead letter, though nobody published it or it was not hopeless
 *   doubled     twice in the topic, or twice among the dead letters of a group
 *   misplaced   a key's messages lie in the topic in another order than its producer sent them
 *   inverted    an ordered group came to a message before the one before it was finished
 *
 * Handled twice is allowed, and counted: who dies before his commit has it done again. So is the result of a handler that was paused
 * past its lease: the sink of an ordered group refuses it by its token, as every sink should.
 */

import { failuresOf, GROUPS, type HandlerLine, isHopeless, ORDERED, type ProducerLine } from "./mq-plan.ts";

export interface MqVerdict {
  lost: number;
  unexpected: number;
  doubled: number;
  misplaced: number;
  inverted: number;
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

export function judgeMq({ produced, handled, entries, dead }: MqFindings): MqJudgement {
  const verdict: MqVerdict = { lost: 0, unexpected: 0, doubled: 0, misplaced: 0, inverted: 0 };
  const examples: string[] = [];
  const wrong = (kind: keyof MqVerdict, text: string) => {
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
  for (const { group } of GROUPS) {
    const letters = dead.get(group) ?? [];
    const given = new Set<string>();
    for (const letter of letters) {
      const name = `${letter.key} ${letter.n}`;
      if (!isKnown(letter) || !isHopeless(letter.n)) wrong("unexpected", `${group} buried ${name}`);
      if (given.has(name)) wrong("doubled", `${group} buried ${name} twice`);
      given.add(name);
    }
    figures.buried += letters.length;
    const finished = readHandled(group, handled, isKnown, wrong, figures);
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
  group: string,
  handled: readonly HandlerLine[],
  isKnown: (message: Numbered) => boolean,
  wrong: (kind: keyof MqVerdict, text: string) => void,
  figures: { handled: number; repeated: number; refused: number },
): Map<string, Set<number>> {
  const isOrdered = ORDERED.includes(group);
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
