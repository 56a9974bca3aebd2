/**
 * Acts by the members' own clients: edits, recalls, reactions, reads and typing, all of a step at once. Whatever outcome is unknown is
 * asked again, of another device if the first was closed on it; what is so already is no second entry.
 */

import type { Crowd } from "./crowd.ts";
import { insist } from "./insist.ts";
import type { Act } from "./plan.ts";
import type { Stage } from "./stage.ts";

export type ActCounts = Record<Act["kind"], number>;
export const noActs = (): ActCounts => ({ edit: 0, recall: 0, react: 0, read: 0, typing: 0 });

export interface ActOptions {
  readonly stage: Stage;
  readonly crowd: Crowd;
  readonly counts: ActCounts;
  /** Where the line was committed. */
  seqOf(line: number): number;
}

/** Resolves when each is answered. Rejects when one is refused for good. */
export async function actTogether({ stage, crowd, counts, seqOf }: ActOptions, acts: readonly Act[]): Promise<void> {
  const answered = await Promise.all(
    acts.map(async (act) => {
      const seq = "target" in act ? seqOf(act.target) : 0;
      await insist(() => perform(stage, crowd, act, seq));
      counts[act.kind] += 1;
      return { seq, act };
    }),
  );
  stage.amended(answered.filter(({ act }) => act.kind !== "read" && act.kind !== "typing"));
}

async function perform(stage: Stage, crowd: Crowd, act: Act, seq: number): Promise<void> {
  const { conversation } = stage;
  const device = crowd.device(act.user, act.device);
  const client = device.client!;
  switch (act.kind) {
    case "edit":
      await client.edit(conversation, seq, { text: act.text });
      break;
    case "recall":
      await client.recall(conversation, seq);
      break;
    case "react":
      await client.react(conversation, seq, act.emoji, act.on);
      break;
    case "read": {
      // The device that asks learns it from the answer, the other one by notification.
      const { read } = await client.read(conversation, seq);
      stage.read(act.user, device.name, read);
      break;
    }
    case "typing":
      client.typing(conversation);
  }
}
