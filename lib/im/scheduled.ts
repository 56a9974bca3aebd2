/**
 * Scheduled messages: sends that are put off. What can be told is told at once (membership, mute, a wrong replyTo); when one is due, a
 * command comes to logic, and the message passes all that a live one does. Its sender hears what became of it, and finds a refused one
 * in his list for 7 days.
 */

import { AppError, invalidField } from "../errors.ts";
import { redisTimeMs } from "../redis/index.ts";
import { type AgendaItem, type AgendaParts, createAgenda } from "./agenda.ts";
import type {
  AgendaResult,
  ListAgendaParams,
  ListScheduledReply,
  Scheduled,
  ScheduledReply,
} from "./agenda-requests.ts";
import type { Committer } from "./commit.ts";
import type { Conversations } from "./conversations.ts";
import { digestOf, type SendInput, type SendResult } from "./messages.ts";
import { type Notifier, notification } from "./notify.ts";
import { LIMITS } from "./protocol.ts";
import { imCommands } from "./topics.ts";
import { assertMaySpeak } from "./typing.ts";

export interface ScheduleInput extends SendInput {
  readonly params: SendInput["params"] & {
    readonly deliverAt?: number | undefined;
    readonly expireAt?: number | undefined;
  };
}

export interface ScheduledMessages {
  /**
   * Undefined: its time has passed, it is to be sent now. Errors as of a live send, as far as they can be told now; INVALID (too far
   * ahead, too many wait, its expireAt has passed), CONFLICT (the clientId is another's scheduled here), RATE_LIMITED.
   */
  schedule(input: ScheduleInput): Promise<ScheduledReply | undefined>;
  /** Waiting ones, and those of the last 7 days that were refused and not deleted. */
  list(by: string, params: ListAgendaParams): Promise<ListScheduledReply>;
  move(by: string, id: string, atMs: number): Promise<AgendaResult>;
  /** A refused one is listed no more. */
  cancel(by: string, id: string): Promise<AgendaResult>;
  /**
   * For who consumes im.commands: sends one that is due, unless it is over, and tells its sender. Again sends nothing and tells him again.
   */
  fire(by: string, id: string, record: string, send: (input: SendInput) => Promise<SendResult>): Promise<void>;
}

interface ScheduledParts extends AgendaParts {
  readonly committer: Pick<Committer, "knows">;
  readonly conversations: Conversations;
  readonly notifier: Notifier;
}

type Content = Pick<Scheduled, "conversation" | "clientId" | "type" | "body" | "replyTo" | "mentions" | "expireAt">;
type Note = Pick<Scheduled, "seq" | "code" | "reason">;

export function createScheduled({ committer, conversations, notifier, ...parts }: ScheduledParts): ScheduledMessages {
  const agenda = createAgenda(parts, {
    ...{ kind: "scheduled", topic: imCommands, type: "im.command.scheduled" },
    ...{ waitingMax: LIMITS.scheduled, timePath: "deliverAt" },
  });

  /** What a live send would be refused for now. */
  async function assertMaySend(by: string, { conversation, replyTo }: Content): Promise<void> {
    await assertMaySpeak(parts, by, conversation);
    const head = replyTo === undefined ? 0 : ((await conversations.state(by, conversation))?.head ?? 0);
    if (replyTo !== undefined && replyTo > head) throw invalidField("replyTo", "must be the seq of an earlier entry");
  }

  const hasPassed = async (atMs: number | undefined) => atMs !== undefined && (await redisTimeMs(parts.redis)) > atMs;

  async function tell(user: string, item: AgendaItem): Promise<void> {
    const scheduled = JSON.stringify({ scheduled: toScheduled(item) });
    await notifier.toUsers([user], notification("scheduled", scheduled));
  }

  return {
    async schedule({ by, params: { deliverAt, ...content } }) {
      const { conversation, clientId, expireAt } = content;
      if (deliverAt === undefined) throw invalidField("expireAt", "needs a deliverAt");
      if (expireAt !== undefined && expireAt < deliverAt)
        throw invalidField("expireAt", "must not lie before deliverAt");
      const clientKey = `${conversation}/${clientId}`;
      const text = JSON.stringify(content);
      const item = await agenda.create(by, {
        ...{ clientKey, digest: digestOf(`${deliverAt} ${text}`), content: text, dueMs: deliverAt, isPastNow: false },
        dataOf: (id) => ({ type: "scheduled", by, id }),
        assertMay: () => assertMaySend(by, content as Content),
      });
      if (item) return { scheduled: item.id, deliverAt: item.due };
      // One that was sent in time is answered as a repetition.
      const isTooLate = (await hasPassed(expireAt)) && !(await committer.knows(by, conversation, clientId));
      if (isTooLate) throw invalidField("expireAt", "has passed");
      return undefined;
    },
    async list(by, { after, limit }) {
      const { items, ...next } = await agenda.list(by, after, limit);
      return { scheduled: items.map(toScheduled), ...next };
    },
    async move(by, id, atMs) {
      const item = await agenda.get(by, id);
      const { expireAt = atMs } = item ? (JSON.parse(item.content) as Content) : {};
      if (atMs > expireAt) throw invalidField("at", `must not lie behind its expireAt, ${expireAt}`);
      return agenda.move(by, id, atMs);
    },
    cancel: (by, id) => agenda.cancel(by, id),
    async fire(by, id, record, send) {
      let item = await agenda.get(by, id);
      if (item?.record !== record) return;
      if (item.state === "waiting") {
        const { expireAt, ...params } = JSON.parse(item.content) as Content;
        const result = (await hasPassed(expireAt)) ? EXPIRED : await send({ by, params });
        item = await agenda.end(by, id, record, {
          ...{ state: result.ok ? "fired" : "refused", isListed: !result.ok },
          note: result.ok ? { seq: result.value.seq } : { code: result.error.code, reason: result.error.message },
        });
      }
      if (item?.state === "fired" || item?.state === "refused") await tell(by, item);
    },
  };
}

const EXPIRED: SendResult = {
  ok: false,
  error: new AppError("REFUSED", "Its expireAt had passed when it could be sent"),
};

function toScheduled({ id, state, due, created, note, content }: AgendaItem): Scheduled {
  return {
    ...{ id, state: state === "fired" ? "sent" : state === "refused" ? "refused" : "waiting" },
    ...(JSON.parse(content) as Content),
    ...{ deliverAt: due, createdAt: created, ...(note === "" ? {} : (JSON.parse(note) as Note)) },
  };
}
