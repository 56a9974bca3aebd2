/**
 * Plays one file: creates its conversation, takes in who is there at the start, then does each line's act by its author, one
 * acknowledged before the next. A line waits for two things besides: its time (unless at full speed), and that members have
 * received nearly all that was said before, as people in a conversation do.
 */

import { type ActCounts, actTogether } from "./acts.ts";
import type { Crowd } from "./crowd.ts";
import { insist } from "./insist.ts";
import type { Plan, Step } from "./plan.ts";
import type { Stage, StageCounters } from "./stage.ts";

/** Lines that may be on their way to the members: some 10 KB per socket, far from an outbox's limit. */
const LINES_UNDER_WAY = 50;
/** As many as one request takes. */
const USERS_PER_REQUEST = 100;
/**
 * Nothing arrives at any device for so long: what is missing is lost, not late. More than a client's own deadline for a sync whose
 * answer was lost (a minute) and the attempts to connect after it, on a machine that is busy with everybody's reconnects.
 */
export const STALL_MS = 150_000;

export interface PlayOptions {
  readonly stage: Stage;
  readonly plan: Plan;
  readonly crowd: Crowd;
  /** Owns every conversation and stays in it to the end. */
  readonly owner: string;
  /** Log time over wall time; 0: as fast as it goes. */
  readonly speed: number;
  readonly counters: StageCounters;
  readonly acts: ActCounts;
  onSent(): void;
}

/** Rejects when a request is refused for good, or nothing moves any more. */
export async function play(options: PlayOptions): Promise<void> {
  const { stage, plan, speed } = options;
  await open(options);
  const seqs = new Map<number, number>();
  const beganMs = performance.now();
  for (const step of plan.steps) {
    if (step.kind === "send" && speed > 0) await Bun.sleep(beganMs + step.dueMs / speed - performance.now());
    await act(options, step, seqs);
  }
  await stage.untilOutstanding(0, STALL_MS);
}

async function open({ stage, plan, crowd, owner }: PlayOptions): Promise<void> {
  const first = plan.initial.slice(0, USERS_PER_REQUEST - 1);
  const params = { id: stage.conversation, type: "group" as const, title: stage.file.slice(0, 100), members: first };
  const { conversation } = await insist(() => crowd.client(owner).create(params));
  stage.epoch = conversation.epoch;
  stage.begin([owner, ...first]);
  crowd.follow([owner, ...first], { conversation: stage.conversation, epoch: stage.epoch, seq: 0 });
  for (let i = first.length; i < plan.initial.length; i += USERS_PER_REQUEST) {
    await takeIn({ stage, crowd, owner }, plan.initial.slice(i, i + USERS_PER_REQUEST));
  }
}

async function act(options: PlayOptions, step: Step, seqs: Map<number, number>): Promise<void> {
  const { stage, crowd, acts: counts } = options;
  if (step.kind === "send") seqs.set(step.line, await say(options, step));
  else if (step.kind === "acts") {
    await untilHeard(stage, step.line);
    await actTogether({ stage, crowd, counts, seqOf: (line) => seqs.get(line)! }, step.acts);
  } else if (step.kind === "join") await takeIn(options, [step.user]);
  else {
    // Whoever leaves has read what was said: what is still on its way would find no member.
    const sinceMs = performance.now();
    await stage.untilReceived(step.user, stage.head, STALL_MS);
    await insist(() => crowd.client(step.user).leave(stage.conversation));
    stage.left(step.user, sinceMs);
  }
}

/** Resolves with the line's seq. */
async function say(
  { stage, crowd, counters, onSent }: PlayOptions,
  step: Extract<Step, { kind: "send" }>,
): Promise<number> {
  const { user, device, text, line } = step;
  await untilHeard(stage, line);
  const startedMs = performance.now();
  stage.starting(startedMs);
  // The same id whatever happens: a line is one message.
  const clientId = `line-${line}`;
  const { id, seq } = await insist(() => crowd.client(user, device).send(stage.conversation, text, { clientId }));
  counters.ackMs.record(performance.now() - startedMs);
  stage.committed({ seq, id, from: user, text });
  onSent();
  return seq;
}

async function untilHeard(stage: Stage, line: number): Promise<void> {
  if (await stage.untilOutstanding(LINES_UNDER_WAY * stage.audience, STALL_MS)) return;
  throw new Error(`${stage.file}:${line}: ${stage.outstanding} deliveries have not arrived for ${STALL_MS} ms`);
}

async function takeIn(
  { stage, crowd, owner }: Pick<PlayOptions, "stage" | "crowd" | "owner">,
  users: readonly string[],
) {
  stage.joining(users);
  const params = { conversation: stage.conversation, users: [...users] };
  const { conversation } = await insist(() => crowd.client(owner).request("member.add", params));
  stage.joined(users, conversation.head);
  crowd.follow(users, { conversation: conversation.id, epoch: conversation.epoch, seq: conversation.head });
}
