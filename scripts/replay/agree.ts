/**
 * Whether everybody holds the same conversation in the end: entries and messages as they are now, byte for byte in canonical JSON. A
 * fresh client that follows each conversation from its beginning is what all others are compared with: every device of every member
 * here, history and the archive in verify.ts. The fresh client itself is compared with what was acknowledged.
 */

import { type Client, connect, type Entry, type Message } from "../../lib/client/index.ts";
import { inParallel } from "../load/api.ts";
import { type Check, createCheck, eventuallyClean, type Finding } from "./finding.ts";
import { canonical, foldAll, isSameEntry } from "./seen.ts";
import { type Line, type Place, placeKey, type Stage } from "./stage.ts";

/** No entry arrives for so long: what is missing is lost. */
const STALL_MS = 30_000;
const POLL_MS = 20;
/** Notifications of reads are on their way for moments. */
const READS_WITHIN_MS = 20_000;

/** What a client makes of a conversation: its entries, and the canonical JSON of its messages as they are now, by seq. */
export interface Held {
  readonly entries: ReadonlyMap<number, Entry>;
  readonly messages: ReadonlyMap<number, string>;
}
export type HeldByStage = ReadonlyMap<Stage, Held>;

/** What a client holds that follows the conversations from their beginning. Of one longer than a sync replays, the rest is missing. */
export async function followAnew(url: string, token: string, stages: readonly Stage[]): Promise<HeldByStage> {
  const entries = new Map(stages.map(({ conversation }) => [conversation, new Map<number, Entry>()]));
  const cursors = stages.map(({ conversation, epoch }) => ({ conversation, epoch, seq: 0 }));
  const client = connect({ url, token, device: "fresh", cursors });
  let lastMs = performance.now();
  client.on("entry", ({ conversation, entry }) => {
    lastMs = performance.now();
    entries.get(conversation)?.set(entry.seq, entry);
  });
  const isBehind = () => stages.some(({ conversation, head }) => entries.get(conversation)!.size < head);
  while (isBehind() && performance.now() - lastMs < STALL_MS) await Bun.sleep(POLL_MS);
  client.close();
  return new Map(stages.map((stage) => [stage, toHeld(entries.get(stage.conversation)!)]));
}

function toHeld(entries: ReadonlyMap<number, Entry>): Held {
  return { entries, messages: foldAll([...entries.values()].sort((a, b) => a.seq - b.seq)) };
}

/** The fresh client against what was acknowledged: every entry is there, every message is as lines and acts have made it. */
export function checkFresh(held: HeldByStage): Finding {
  const check = createCheck("fresh client");
  for (const [stage, { entries, messages }] of held) {
    const missing = stage.head - entries.size;
    if (missing !== 0) check.fault("lost", stage, `${entries.size} entries of ${stage.head}`, Math.abs(missing));
    check.compare(
      stage,
      linesNow(stage),
      [...messages.values()].map((text) => toLine(JSON.parse(text) as Message)),
    );
    checkActs(check, stage, messages);
  }
  return check.finding();
}

export const toLine = ({ seq, id, from, body }: Message): Line => ({ seq, id, from, text: body.text ?? "" });

/** The lines with the texts that they have after all edits and recalls. */
export function linesNow({ lines, done }: Stage): Line[] {
  const texts = new Map(lines.map(({ seq, text }) => [seq, text]));
  for (const { seq, act } of done) {
    if (act.kind === "edit") texts.set(seq, act.text);
    if (act.kind === "recall") texts.set(seq, "");
  }
  return lines.map((line) => ({ ...line, text: texts.get(line.seq)! }));
}

/** Of every message: whether it is edited or recalled, and who has which reaction on it, as it was acknowledged. */
function checkActs(check: Check, stage: Stage, messages: ReadonlyMap<number, string>): void {
  const acts = Map.groupBy(stage.done, ({ seq }) => seq);
  for (const [seq, text] of messages) {
    const { editedAt, recalledAt, reactions = [] } = JSON.parse(text) as Message;
    const done = (acts.get(seq) ?? []).map(({ act }) => act);
    const isRecalled = done.some(({ kind }) => kind === "recall");
    const isEdited = !isRecalled && done.some(({ kind }) => kind === "edit");
    const users = new Map<string, Set<string>>();
    for (const act of done) {
      if (act.kind !== "react") continue;
      const own = users.get(act.emoji) ?? new Set();
      users.set(act.emoji, own);
      if (act.on) own.add(act.user);
      else own.delete(act.user);
    }
    const due = isRecalled ? [] : [...users].filter(([, { size }]) => size > 0);
    const areReactionsRight =
      due.length === reactions.length &&
      reactions.every(
        ({ emoji, count, users: named }) =>
          count === users.get(emoji)?.size && named.every((user) => users.get(emoji)!.has(user)),
      );
    if ((editedAt !== undefined) === isEdited && (recalledAt !== undefined) === isRecalled && areReactionsRight)
      continue;
    check.fault("different", stage, `${stage.conversation} ${seq}: ${text} after ${JSON.stringify(done)}`);
  }
}

/** Every device of every member, from where it was taken in. */
export function checkDevices(held: HeldByStage): Finding {
  const check = createCheck("devices");
  for (const [stage, fresh] of held) {
    for (const place of stage.places) checkDevice(check, stage, place, fresh);
  }
  return check.finding();
}

function checkDevice(check: Check, stage: Stage, { user, device, joined, entries }: Place, fresh: Held): void {
  const who = placeKey(user, device);
  const own: Entry[] = [];
  for (let seq = joined + 1; seq <= stage.head; seq++) {
    const variant = entries[seq];
    const expected = fresh.entries.get(seq);
    if (variant) own.push(variant.entry);
    if (variant && expected && isSameEntry(variant.entry, expected)) continue;
    check.agree(stage, seq, { who, text: variant?.text, expected: expected && canonical(expected) });
  }
  const messages = foldAll(own);
  check.count(messages.size);
  for (const [seq, expected] of fresh.messages) {
    if (seq > joined) check.agree(stage, seq, { who, text: messages.get(seq), expected });
  }
}

/** How far each user has read and how much is unread: what his devices know, and what the server says. */
export async function checkReads(
  clientOf: (user: string) => Pick<Client, "request">,
  stages: readonly Stage[],
  withinMs = READS_WITHIN_MS,
): Promise<Finding> {
  const seats = stages.flatMap((stage) => stage.places.map((place) => ({ stage, place })));
  const byUser = Map.groupBy(seats, ({ place }) => place.user);
  return eventuallyClean(withinMs, async () => {
    const check = createCheck("read cursors");
    await inParallel([...byUser], ([user, own]) => checkReadsOf(check, clientOf(user), own));
    return check.finding();
  });
}

interface Seat {
  readonly stage: Stage;
  readonly place: Place;
}

async function checkReadsOf(check: Check, client: Pick<Client, "request">, seats: readonly Seat[]): Promise<void> {
  const stages = [...new Set(seats.map(({ stage }) => stage))];
  const cursors = stages.map(({ conversation, epoch, head }) => ({ conversation, epoch, seq: head }));
  const { conversations } = await client.request("sync", { cursors });
  for (const { stage, place } of seats) {
    const { read, unread } = conversations.find(({ conversation }) => conversation === stage.conversation) ?? {};
    const expected = canonical({ read, unread });
    const text = canonical({ read: place.read, unread: unreadOf(place) });
    check.count(1);
    if (text === expected) continue;
    const who = placeKey(place.user, place.device);
    check.fault("different", stage, `${stage.conversation}: ${who} has ${text}, the server ${expected}`);
  }
}

/** As an app counts it: one's own messages are read by being sent. */
const unreadOf = ({ entries, read }: Place) =>
  entries.filter(({ entry }) => entry.kind === "message" && entry.seq > read).length;
