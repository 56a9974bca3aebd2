/**
 * The judgement, apart from any I/O: evidence on one side, what readers found on the other. Every count is 0 in health.
 *
 *   lost          acknowledged, but not at its seq with its id and text
 *   gap, doubledSeq    seqs of a conversation are 1..head, each once
 *   doubledClientId    one clientId, several messages
 *   unexpected    a message that nobody attempted
 *   reordered     of one sender in one conversation, not in the order he sent them
 *   divergent     two readers, or the archive, or a downstream service, saw something else
 */

import type { EvidenceLine, PlannedConversation } from "./evidence.ts";

export interface SeenMessage {
  readonly seq: number;
  readonly id: string;
  readonly from: string;
  readonly text: string;
}

export interface Verdict {
  lost: number;
  gap: number;
  doubledSeq: number;
  doubledClientId: number;
  unexpected: number;
  reordered: number;
  divergent: number;
  /** Notifications twice or backwards on one connection. */
  disorder: number;
}

export interface Outcomes {
  attempts: number;
  retries: number;
  ok: number;
  duplicate: number;
  failed: number;
  unknown: number;
  /** Tried, and neither acknowledged nor found: allowed, but never at the end of a healed run. */
  unsettled: number;
}

export interface Judgement {
  readonly verdict: Verdict;
  readonly outcomes: Outcomes;
  readonly messages: number;
  /** What was wrong, the first of each kind in words. */
  readonly examples: string[];
}

const EXAMPLES_MAX = 20;

interface Attempted {
  readonly conversation: string;
  readonly user: string;
  readonly n: number;
  readonly text: string;
  ok: { seq: number; message: string } | undefined;
  found: number;
}

/** Judges what the first reader saw of each conversation; other readers are compared with `compare`. */
export function judge(
  evidence: readonly EvidenceLine[],
  timelines: ReadonlyMap<string, readonly SeenMessage[]>,
): Judgement {
  const verdict: Verdict = {
    lost: 0,
    gap: 0,
    doubledSeq: 0,
    doubledClientId: 0,
    unexpected: 0,
    reordered: 0,
    divergent: 0,
    disorder: 0,
  };
  const examples: string[] = [];
  const wrong = (kind: keyof Verdict, text: string) => {
    verdict[kind]++;
    if (examples.length < EXAMPLES_MAX) examples.push(`${kind}: ${text}`);
  };
  const outcomes: Outcomes = { attempts: 0, retries: 0, ok: 0, duplicate: 0, failed: 0, unknown: 0, unsettled: 0 };
  const attempted = readAttempts(evidence, outcomes, wrong);
  const byText = new Map<string, Attempted>();
  for (const attempt of attempted.values()) byText.set(`${attempt.conversation}\n${attempt.text}`, attempt);

  let messages = 0;
  for (const [conversation, timeline] of timelines) {
    messages += timeline.length;
    const lastOf = new Map<string, number>();
    let expected = 1;
    for (const { seq, id, from, text } of timeline) {
      if (seq < expected) wrong("doubledSeq", `${conversation} has seq ${seq} again`);
      else if (seq > expected) wrong("gap", `${conversation} lacks seq ${expected}..${seq - 1}`);
      expected = Math.max(expected, seq + 1);
      const attempt = byText.get(`${conversation}\n${text}`);
      if (!attempt || attempt.user !== from) {
        wrong("unexpected", `${conversation} ${seq} from ${from}: ${text.slice(0, 60)}`);
        continue;
      }
      attempt.found++;
      if (attempt.found > 1) wrong("doubledClientId", `${conversation} ${seq}: ${text.slice(0, 60)}`);
      const last = lastOf.get(from) ?? 0;
      if (attempt.n < last) wrong("reordered", `${conversation} ${seq}: ${from}'s ${attempt.n} after ${last}`);
      lastOf.set(from, Math.max(last, attempt.n));
      if (attempt.ok && (attempt.ok.seq !== seq || attempt.ok.message !== id)) {
        wrong(
          "lost",
          `${conversation}: acknowledged as ${attempt.ok.seq} ${attempt.ok.message}, found as ${seq} ${id}`,
        );
      }
    }
  }
  for (const [id, { ok, found }] of attempted) {
    if (ok && found === 0) wrong("lost", `${id}: acknowledged as ${ok.seq}, not found`);
    if (!ok && found === 0) outcomes.unsettled++;
  }
  return { verdict, outcomes, messages, examples };
}

function readAttempts(
  evidence: readonly EvidenceLine[],
  outcomes: Outcomes,
  wrong: (kind: keyof Verdict, text: string) => void,
): Map<string, Attempted> {
  const attempted = new Map<string, Attempted>();
  for (const line of evidence) {
    switch (line.e) {
      case "plan":
        break;
      case "attempt": {
        const { conversation, user, n, text } = line;
        outcomes.attempts++;
        attempted.set(line.id, { conversation, user, n, text, ok: undefined, found: 0 });
        break;
      }
      case "retry":
        outcomes.retries++;
        break;
      case "ok":
        outcomes.ok++;
        if (line.duplicate) outcomes.duplicate++;
        attempted.get(line.id)!.ok = { seq: line.seq, message: line.message };
        break;
      case "failed":
      case "unknown":
        outcomes[line.e]++;
        break;
      case "disorder":
        wrong("disorder", `${line.user} saw ${line.conversation} ${line.seq} after ${line.after}`);
        break;
    }
  }
  return attempted;
}

/** Adds a divergence for each conversation that another source shows otherwise. */
export function compare(
  judgement: Judgement,
  name: string,
  timelines: ReadonlyMap<string, readonly SeenMessage[]>,
  other: ReadonlyMap<string, readonly SeenMessage[]>,
): void {
  for (const [conversation, timeline] of timelines) {
    const difference = differenceOf(timeline, other.get(conversation) ?? []);
    if (difference === undefined) continue;
    diverge(judgement, `${name} differs in ${conversation}: ${difference}`);
  }
}

export function diverge({ verdict, examples }: Judgement, text: string): void {
  verdict.divergent++;
  if (examples.length < EXAMPLES_MAX) examples.push(`divergent: ${text}`);
}

function differenceOf(a: readonly SeenMessage[], b: readonly SeenMessage[]): string | undefined {
  if (a.length !== b.length) return `${b.length} messages instead of ${a.length}`;
  for (const [i, x] of a.entries()) {
    const y = b[i]!;
    if (x.seq !== y.seq || x.id !== y.id || x.from !== y.from || x.text !== y.text) {
      return `at ${i}: ${y.seq} ${y.id} instead of ${x.seq} ${x.id}`;
    }
  }
  return undefined;
}

/** The plan, which is the evidence's first line. */
export function planOf(evidence: readonly EvidenceLine[]): readonly PlannedConversation[] {
  const first = evidence[0];
  if (first?.e !== "plan") throw new Error("the evidence does not begin with its plan");
  return first.conversations;
}

export const isClean = (verdict: Verdict): boolean => Object.values(verdict).every((count) => count === 0);
