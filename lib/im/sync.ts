/**
 * What a returning client missed, per conversation, with an honest verdict:
 *
 *   resumed   `entries` follow the cursor without a hole; `more`: ask again from the last of them
 *   gap       the cursor is right but too far behind to catch up entry by entry: `entries` are the newest, page history for
 *             what lies between
 *   reset     the cursor is not of this timeline (other epoch, beyond the head, other id at its seq): drop local state;
 *             `entries` are the newest
 *
 * A conversation without a cursor is `reset`. Never a partial recovery that looks whole.
 */

import { AppError } from "../errors.ts";
import type { ConversationState, Conversations } from "./conversations.ts";
import type { Inbox } from "./inbox.ts";
import { type Cursor, type Entry, type HistoryReply, LIMITS, type SyncReply } from "./protocol.ts";
import { type StoredEntry, type Timeline, toEntry } from "./timeline.ts";

/** Farther behind, paging history is cheaper for both sides than replaying each entry. */
const RECOVERY_ENTRIES_MAX = 5_000;
/** Entries of one conversation in one reply. */
const PAGE_ENTRIES = 200;
/** Newest entries for a conversation that starts over. */
const NEWEST_ENTRIES = 20;
/** Of one reply, in record characters: a reply must fit well inside a socket's outbox (lagging at 256 KB). */
const REPLY_CHARACTERS_MAX = 160 * 1_024;

export interface SyncParts {
  readonly conversations: Conversations;
  readonly inbox: Inbox;
  readonly timeline: Timeline;
}

type Synced = SyncReply["conversations"][number];

/** Answers for each cursor's conversation (left out when the user is no member) and for the user's other conversations. */
export async function sync(parts: SyncParts, user: string, cursors: readonly Cursor[] = []): Promise<SyncReply> {
  const byConversation = new Map<string, Cursor | undefined>(cursors.map((cursor) => [cursor.conversation, cursor]));
  const { conversations: listed } = await parts.inbox.page(user, LIMITS.cursors);
  for (const conversation of listed) {
    if (byConversation.size >= LIMITS.cursors) break;
    if (!byConversation.has(conversation)) byConversation.set(conversation, undefined);
  }
  const synced: Synced[] = [];
  let budget = REPLY_CHARACTERS_MAX;
  const states = await Promise.all([...byConversation.keys()].map((id) => parts.conversations.state(user, id)));
  let i = 0;
  for (const [conversation, cursor] of byConversation) {
    const state = states[i++];
    if (!state) continue;
    const { verdict, stored } = await catchUp(parts.timeline, conversation, state, cursor);
    const kept = withinBudget(stored, budget, verdict !== "resumed");
    for (const entry of kept) budget -= entry.record.length;
    synced.push(toSynced(conversation, state, verdict, kept, kept.length < stored.length));
  }
  return { conversations: synced };
}

async function catchUp(timeline: Timeline, conversation: string, state: ConversationState, cursor: Cursor | undefined) {
  const { epoch, head } = state;
  const range = { conversation, epoch, before: head + 1, messagesOnly: false };
  const isOurs =
    cursor !== undefined &&
    cursor.epoch === epoch &&
    cursor.seq <= head &&
    (await holds(timeline, conversation, epoch, cursor));
  if (isOurs && head - cursor.seq <= RECOVERY_ENTRIES_MAX) {
    const missed =
      head === cursor.seq
        ? []
        : await timeline.read({ ...range, after: cursor.seq, limit: PAGE_ENTRIES, newest: false });
    return { verdict: "resumed" as const, stored: missed };
  }
  const newest = head === 0 ? [] : await timeline.read({ ...range, after: 0, limit: NEWEST_ENTRIES, newest: true });
  return { verdict: isOurs ? ("gap" as const) : ("reset" as const), stored: newest };
}

/** Whether the timeline has the cursor's id at the cursor's seq. A cursor without id is trusted by epoch and seq. */
async function holds(timeline: Timeline, conversation: string, epoch: string, cursor: Cursor): Promise<boolean> {
  if (cursor.id === undefined || cursor.seq === 0) return true;
  const stored = await timeline.at(conversation, epoch, cursor.seq);
  return stored !== undefined && toEntry(stored).id === cursor.id;
}

/** As many as fit: the first ones when they follow a cursor, else the newest. */
function withinBudget(stored: readonly StoredEntry[], budget: number, newest: boolean): StoredEntry[] {
  const kept: StoredEntry[] = [];
  let left = budget;
  for (const entry of newest ? stored.toReversed() : stored) {
    left -= entry.record.length;
    if (left < 0) break;
    kept.push(entry);
  }
  return newest ? kept.reverse() : kept;
}

function toSynced(
  conversation: string,
  state: ConversationState,
  verdict: Synced["verdict"],
  kept: StoredEntry[],
  cut: boolean,
): Synced {
  const { epoch, head, read, unread } = state;
  const entries: Entry[] = kept.map(toEntry);
  const last = entries.at(-1)?.seq;
  const more = verdict === "resumed" ? cut || (last !== undefined && last < head) : (entries[0]?.seq ?? head + 1) > 1;
  return { conversation, verdict, epoch, head, read, unread, entries, more };
}

/** A page of messages, ascending. `after`: the first ones behind it; `before` or neither: the newest ones. */
export async function history(
  { conversations, timeline }: Pick<SyncParts, "conversations" | "timeline">,
  user: string,
  params: { conversation: string; after?: number | undefined; before?: number | undefined; limit: number },
): Promise<HistoryReply> {
  const { conversation, after, before, limit } = params;
  if (after !== undefined && before !== undefined) {
    const message = "give after or before, not both";
    throw new AppError("INVALID", `before: ${message}`, { issues: [{ path: "before", message }] });
  }
  const state = await conversations.state(user, conversation);
  if (!state) throw new AppError("NOT_MEMBER");
  const { epoch, head } = state;
  const newest = after === undefined;
  const stored = await timeline.read({
    conversation,
    epoch,
    after: after ?? 0,
    before: Math.min(before ?? head + 1, head + 1),
    // One more than asked tells whether there is more.
    limit: limit + 1,
    newest,
    messagesOnly: true,
  });
  const page = newest ? stored.slice(-limit) : stored.slice(0, limit);
  const kept = withinBudget(page, REPLY_CHARACTERS_MAX, newest);
  return { epoch, head, messages: kept.map((entry) => JSON.parse(entry.record)), more: kept.length < stored.length };
}
