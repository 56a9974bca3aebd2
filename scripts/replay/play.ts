/**
 * Plays one file: creates its conversation, takes in who is there at the start, then does each line's act by its author, one
 * acknowledged before the next. A line waits for two things besides: its time (unless at full speed), and that members have
 * received nearly all that was said before, as people in a conversation do.
 */

import { ClientError } from "../../lib/client/index.ts";
import { type Crowd, followFrom } from "./crowd.ts";
import type { Plan, Step } from "./plan.ts";
import type { Stage, StageCounters } from "./stage.ts";

/** Lines that may be on their way to the members: some 10 KB per socket, far from an outbox's limit. */
const LINES_UNDER_WAY = 50;
/** As many as one request takes. */
const USERS_PER_REQUEST = 100;
/** Nothing arrives at any member for so long: restarts and back-offs are over, what is missing is lost. */
export const STALL_MS = 60_000;
/** An unknown outcome is asked again under the same id; each try lasts a minute. */
const TRIES_MAX = 5;

export interface PlayOptions {
  readonly stage: Stage;
  readonly plan: Plan;
  readonly crowd: Crowd;
  /** Owns every conversation and stays in it to the end. */
  readonly owner: string;
  /** Log time over wall time; 0: as fast as it goes. */
  readonly speed: number;
  readonly counters: StageCounters;
  onSent(): void;
}

/** Rejects when a request is refused for good, or nothing moves any more. */
export async function play(options: PlayOptions): Promise<void> {
  const { stage, plan, speed } = options;
  await open(options);
  const beganMs = performance.now();
  for (const step of plan.steps) {
    if (step.kind === "send" && speed > 0) await Bun.sleep(beganMs + step.dueMs / speed - performance.now());
    await act(options, step);
  }
  await stage.untilOutstanding(0, STALL_MS);
}

async function open({ stage, plan, crowd, owner }: PlayOptions): Promise<void> {
  const first = plan.initial.slice(0, USERS_PER_REQUEST - 1);
  const params = { id: stage.conversation, type: "group" as const, title: stage.file.slice(0, 100), members: first };
  const { conversation } = await insist(() => crowd.client(owner).create(params));
  stage.epoch = conversation.epoch;
  stage.begin([owner, ...first]);
  followFrom(crowd, first, { conversation: stage.conversation, epoch: stage.epoch, seq: 0 });
  for (let i = first.length; i < plan.initial.length; i += USERS_PER_REQUEST) {
    await takeIn({ stage, crowd, owner }, plan.initial.slice(i, i + USERS_PER_REQUEST));
  }
}

async function act(options: PlayOptions, step: Step): Promise<void> {
  const { stage, crowd } = options;
  if (step.kind === "send") await say(options, step);
  else if (step.kind === "join") await takeIn(options, [step.user]);
  else {
    // Whoever leaves has read what was said: what is still on its way would find no member.
    await stage.untilReceived(step.user, stage.head, STALL_MS);
    await insist(() => crowd.client(step.user).leave(stage.conversation));
    stage.left(step.user);
  }
}

async function say(
  { stage, crowd, counters, onSent }: PlayOptions,
  step: Extract<Step, { kind: "send" }>,
): Promise<void> {
  const { user, text, line } = step;
  if (!(await stage.untilOutstanding(LINES_UNDER_WAY * stage.members, STALL_MS))) {
    throw new Error(`${stage.file}:${line}: ${stage.outstanding} deliveries have not arrived for ${STALL_MS} ms`);
  }
  const startedMs = performance.now();
  stage.starting(startedMs);
  // The same id whatever happens: a line is one message.
  const clientId = `line-${line}`;
  const { id, seq } = await insist(() => crowd.client(user).send(stage.conversation, text, { clientId }));
  counters.ackMs.record(performance.now() - startedMs);
  stage.committed({ seq, id, from: user, text });
  onSent();
}

async function takeIn(
  { stage, crowd, owner }: Pick<PlayOptions, "stage" | "crowd" | "owner">,
  users: readonly string[],
) {
  stage.joining(users);
  const params = { conversation: stage.conversation, users: [...users] };
  const { conversation } = await insist(() => crowd.client(owner).request("member.add", params));
  stage.joined(users, conversation.head);
  followFrom(crowd, users, { conversation: conversation.id, epoch: conversation.epoch, seq: conversation.head });
}

/** Repeats what ends as unknown; all requests here may be repeated. */
async function insist<T>(request: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await request();
    } catch (error) {
      const isUnknown = error instanceof ClientError && error.outcome === "unknown";
      if (!isUnknown || tries >= TRIES_MAX) throw error;
    }
  }
}
