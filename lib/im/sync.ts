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
 *
 * Entries come as they were committed, with one exception: what was recalled since is not handed out again. History shows
 * messages as they are now.
 */

import { AppError } from "../errors.ts";
import type { ConversationState, Conversations } from "./conversations.ts";
import { FOLDED_PARTS, foldedMessage, withoutRecalled } from "./fold.ts";
import type { Hidden } from "./hidden.ts";
import type { Inbox } from "./inbox.ts";
import { type Entry, LIMITS, type Message } from "./protocol.ts";
import type { Cursor, HistoryReply, SyncReply } from "./requests.ts";
import { type Range, type StoredEntry, type Timeline, toEntry } from "./timeline.ts";

/** Farther behind, paging history is cheaper for both sides than replaying each entry. */
const RECOVERY_ENTRIES_MAX = 5_000;
/** Entries of one conversation in one reply. */
const PAGE_ENTRIES = 200;
/** Newest entries for a conversation that starts over. */
const NEWEST_ENTRIES = 20;
/** Of one reply, in record characters: a reply must fit well inside a socket's outbox (lagging at 256 KB). */
const REPLY_CHARACTERS_MAX = 160 * 1_024;

/** A user can hide some 10 000 messages (hidden.ts); read 200 at a time, that many rounds pass over all of them. */
const HIDDEN_ROUNDS_MAX = 60;

export interface SyncParts {
  readonly conversations: Conversations;
  readonly inbox: Inbox;
  readonly hidden: Hidden;
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
    for (const entry of kept) budget -= charactersOf(entry);
    synced.push(toSynced(conversation, state, verdict, kept, kept.length < stored.length));
  }
  return { conversations: await withHidden(parts.hidden, user, synced) };
}

/** Names the messages among the entries that the user has deleted for himself. */
async function withHidden(hidden: Hidden, user: string, synced: readonly Synced[]): Promise<Synced[]> {
  const places = synced.flatMap(({ conversation, entries }) =>
    entries.filter(({ kind }) => kind === "message").map(({ seq }) => ({ conversation, seq })),
  );
  const isHidden = await hidden.among(user, places);
  const byConversation = Map.groupBy(
    places.filter((_, i) => isHidden[i]),
    ({ conversation }) => conversation,
  );
  return synced.map((one) => {
    const own = byConversation.get(one.conversation);
    return own ? { ...one, hidden: own.map(({ seq }) => seq) } : one;
  });
}

async function catchUp(timeline: Timeline, conversation: string, state: ConversationState, cursor: Cursor | undefined) {
  const { epoch, head } = state;
  const range = { conversation, epoch, before: head + 1, messagesOnly: false, parts: ["content"] };
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
    // Behind the cursor entries may be missing that were too old to be kept.
    if (head === cursor.seq || missed[0]?.seq === cursor.seq + 1)
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
    left -= charactersOf(entry);
    if (left < 0) break;
    kept.push(entry);
  }
  return newest ? kept.reverse() : kept;
}

function charactersOf({ record, parts }: StoredEntry): number {
  return record.length + (parts?.content?.length ?? 0) + (parts?.reactions?.length ?? 0);
}

function toSynced(
  conversation: string,
  state: ConversationState,
  verdict: Synced["verdict"],
  kept: StoredEntry[],
  cut: boolean,
): Synced {
  const { epoch, head, read, unread } = state;
  const entries: Entry[] = kept.map((stored) => withoutRecalled(toEntry(stored), stored.parts));
  const last = entries.at(-1)?.seq;
  const more = verdict === "resumed" ? cut || (last !== undefined && last < head) : (entries[0]?.seq ?? head + 1) > 1;
  return { conversation, verdict, epoch, head, read, unread, entries, more };
}

/** A page of messages, ascending. `after`: the first ones behind it; `before` or neither: the newest ones. */
export async function history(
  { conversations, timeline, hidden }: Omit<SyncParts, "inbox">,
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
  const visible = await readVisible({ timeline, hidden }, user, {
    conversation,
    epoch,
    after: after ?? 0,
    before: Math.min(before ?? head + 1, head + 1),
    // One more than asked tells whether there is more.
    limit: limit + 1,
    newest,
    messagesOnly: true,
    parts: FOLDED_PARTS,
  });
  const page = newest ? visible.slice(-limit) : visible.slice(0, limit);
  const kept = withinBudget(page, REPLY_CHARACTERS_MAX, newest);
  return { epoch, head, messages: kept.map(toMessage), more: kept.length < visible.length };
}

/** Messages of the range that the user has not deleted for himself. */
async function readVisible(
  { timeline, hidden }: Pick<SyncParts, "timeline" | "hidden">,
  user: string,
  range: Range,
): Promise<StoredEntry[]> {
  const { conversation, limit, newest } = range;
  let visible: StoredEntry[] = [];
  let { after, before } = range;
  for (let round = 0; round < HIDDEN_ROUNDS_MAX && visible.length < limit; round++) {
    const asked = round === 0 ? limit : LIMITS.historyLimit + 1;
    const stored = await timeline.read({ ...range, after, before, limit: asked });
    const isHidden = await hidden.among(
      user,
      stored.map(({ seq }) => ({ conversation, seq })),
    );
    const shown = stored.filter((_, i) => !isHidden[i]);
    visible = newest ? [...shown, ...visible].slice(-limit) : [...visible, ...shown].slice(0, limit);
    if (stored.length < asked) break;
    if (newest) before = stored[0]!.seq;
    else after = stored.at(-1)!.seq;
  }
  return visible;
}

function toMessage({ record, parts }: StoredEntry): Message {
  return foldedMessage(record, parts);
}
