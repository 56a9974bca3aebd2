/**
 * Reminders: a text that comes back to its user at a time, with a place in a conversation or without. When it is due, all his
 * connections are told; who has none is to be woken (`fire` says so). One with `unlessRead` is looked at then, and not when it was made.
 */

import { AppError, invalidField } from "../errors.ts";
import { newId } from "../id.ts";
import { type AgendaItem, type AgendaParts, createAgenda } from "./agenda.ts";
import type {
  AgendaResult,
  CreateReminderParams,
  ListAgendaParams,
  ListRemindersReply,
  Reminder,
} from "./agenda-requests.ts";
import type { Conversations } from "./conversations.ts";
import { digestOf } from "./messages.ts";
import { type Notifier, notification } from "./notify.ts";
import { LIMITS } from "./protocol.ts";
import { imReminders } from "./topics.ts";

export interface Reminders {
  /** INVALID (also beyond the head, and when too many wait), NOT_MEMBER, CONFLICT (the clientId is another reminder's), RATE_LIMITED. */
  create(by: string, params: CreateReminderParams): Promise<Reminder>;
  /** Waiting ones, and those of the last 7 days that fired and were not deleted. */
  list(by: string, params: ListAgendaParams): Promise<ListRemindersReply>;
  move(by: string, id: string, atMs: number): Promise<AgendaResult>;
  /** As move; one that has fired comes again. */
  snooze(by: string, id: string, atMs: number): Promise<AgendaResult>;
  /** One that has fired is listed no more. */
  cancel(by: string, id: string): Promise<AgendaResult>;
  /**
   * For who consumes im.reminders: tells the user, unless the reminder is over or he has read. Resolves to the reminder when none of his
   * connections heard of it. Again tells him again.
   */
  fire(user: string, id: string, record: string): Promise<Reminder | undefined>;
}

interface ReminderParts extends AgendaParts {
  readonly conversations: Conversations;
  readonly notifier: Notifier;
}

type Content = Pick<Reminder, "text" | "conversation" | "seq" | "unlessRead">;

export function createReminders({ conversations, notifier, ...parts }: ReminderParts): Reminders {
  const agenda = createAgenda(parts, {
    ...{ kind: "reminders", topic: imReminders, type: "im.reminder.due" },
    ...{ waitingMax: LIMITS.reminders, timePath: "at" },
  });

  async function assertPlace(by: string, { conversation, seq, unlessRead }: Content): Promise<void> {
    if (seq !== undefined && conversation === undefined) throw invalidField("seq", "needs a conversation");
    if (unlessRead && seq === undefined) throw invalidField("unlessRead", "needs a conversation and a seq");
    if (conversation === undefined) return;
    const state = await conversations.state(by, conversation);
    if (!state) throw new AppError("NOT_MEMBER");
    if (seq !== undefined && seq > state.head) throw invalidField("seq", `must be at most the head, ${state.head}`);
  }

  /** Who is no member any more has read nothing since. */
  async function isRead(user: string, { conversation, seq, unlessRead }: Content): Promise<boolean> {
    if (!unlessRead) return false;
    const state = await conversations.state(user, conversation!);
    return state !== undefined && state.read >= seq!;
  }

  return {
    async create(by, { at, clientId = newId(parts.clock.now()), ...content }) {
      const item = await agenda.create(by, {
        ...{ clientKey: clientId, digest: digestOf(JSON.stringify([at, content])), content: JSON.stringify(content) },
        ...{ dueMs: at, isPastNow: true, dataOf: (id) => ({ user: by, id }) },
        assertMay: () => assertPlace(by, content),
      });
      return toReminder(item!);
    },
    async list(by, { after, limit }) {
      const { items, ...next } = await agenda.list(by, after, limit);
      return { reminders: items.map(toReminder), ...next };
    },
    move: (by, id, atMs) => agenda.move(by, id, atMs),
    snooze: (by, id, atMs) => agenda.move(by, id, atMs, { user: by, id }),
    cancel: (by, id) => agenda.cancel(by, id),
    async fire(user, id, record) {
      const due = await agenda.get(user, id);
      if (due?.record !== record) return undefined;
      const isOver = due.state === "waiting" && (await isRead(user, JSON.parse(due.content)));
      const item = await agenda.end(user, id, record, { state: isOver ? "done" : "fired", isListed: !isOver });
      if (item?.state !== "fired") return undefined;
      const reminder = toReminder(item);
      const unreached = await notifier.toUsers([user], notification("reminder", JSON.stringify({ reminder })));
      return unreached.length > 0 ? reminder : undefined;
    },
  };
}

function toReminder({ id, state, due, created, ended, content }: AgendaItem): Reminder {
  return {
    ...{ id, state: state === "waiting" ? "waiting" : "fired", at: due },
    ...(JSON.parse(content) as Content),
    ...{ createdAt: created, ...(ended === 0 ? {} : { firedAt: ended }) },
  };
}
