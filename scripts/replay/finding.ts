/** What a look from outside came to, and how it is put together. */

import type { Faults, Line, Stage } from "./stage.ts";
import { noFaults } from "./stage.ts";

const POLL_MS = 200;
const EXAMPLES_MAX = 5;

export interface Finding extends Faults {
  /** What was looked into. */
  readonly where: string;
  readonly messages: number;
  readonly examples: readonly string[];
}

export function isClean(faults: Faults): boolean {
  return faults.lost + faults.doubled + faults.reordered + faults.different + faults.outside === 0;
}

/** Looks again until all is there or time is up: then what is wrong is wrong. */
export async function eventuallyClean(withinMs: number, look: () => Finding | Promise<Finding>): Promise<Finding> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const finding = await look();
    if (isClean(finding) || performance.now() > deadline) return finding;
    await Bun.sleep(POLL_MS);
  }
}

export type Check = ReturnType<typeof createCheck>;

export function createCheck(where: string) {
  const faults = noFaults();
  const examples: string[] = [];
  let messages = 0;
  const fault = (kind: keyof Faults, stage: Stage, example: string, count = 1) => {
    faults[kind] += count;
    if (examples.length < EXAMPLES_MAX) examples.push(`${where}: ${stage.file}: ${kind}: ${example}`);
  };
  return {
    fault,
    count(more: number): void {
      messages += more;
    },
    /** Both in canonical JSON; undefined: not there. */
    agree(stage: Stage, seq: number, { who, text, expected }: Texts): void {
      if (text === expected) return;
      const kind = text === undefined ? "lost" : "different";
      fault(kind, stage, `${stage.conversation} ${seq}: ${who} has ${text}, the fresh client ${expected}`);
    },
    /** Every line once, at its seq, in order, with this text: as it was sent, or as it is now. */
    compare(stage: Stage, lines: readonly Line[], found: readonly Line[]): void {
      messages += found.length;
      const sent = new Map(lines.map((line) => [line.id, line]));
      const seen = new Set<string>();
      let last = 0;
      for (const line of found) {
        const expected = sent.get(line.id);
        if (seen.has(line.id)) fault("doubled", stage, `${line.id} at ${line.seq}`);
        else if (!expected) fault("different", stage, `${line.id} at ${line.seq} was never acknowledged`);
        else if (line.seq !== expected.seq || line.seq <= last) fault("reordered", stage, `${line.id} at ${line.seq}`);
        else if (line.text !== expected.text || line.from !== expected.from) {
          fault(
            "different",
            stage,
            `${line.id}: ${JSON.stringify(line.text)}, sent was ${JSON.stringify(expected.text)}`,
          );
        }
        seen.add(line.id);
        last = Math.max(last, line.seq);
      }
      const missing = lines.filter(({ id }) => !seen.has(id));
      if (missing.length > 0) fault("lost", stage, `${missing[0]!.id} at ${missing[0]!.seq}`, missing.length);
    },
    finding: (): Finding => ({ where, messages, ...faults, examples }),
  };
}

interface Texts {
  readonly who: string;
  readonly text: string | undefined;
  readonly expected: string | undefined;
}
