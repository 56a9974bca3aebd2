/**
 * The past that `bench archive` fills an archive with: months of many conversations, the largest with three messages of ten, the
 * others ever smaller, each alive for a time of its own, all of them in the order in which they were committed. What is said are
 * the lines of chat logs, or made-up words in the frequencies of a language.
 */

import type { NewEntry } from "../../lib/archive/index.ts";
import { newId } from "../../lib/id.ts";
import { type EntryEvent, type Message, partsOf } from "../../lib/im/index.ts";
import { wordsOf } from "../../lib/words.ts";
import { createRandom, type Random } from "../chaos/random.ts";
import { parseLog } from "../replay/parse.ts";

const SEED = 20_04;
const SPAN_MS = 270 * 24 * 3_600_000;
/** Of all entries, in the largest conversation. */
const LARGEST_SHARE = 0.3;
const ENTRIES_PER_CONVERSATION = 500;
/** So many are searched at once. */
const CONVERSATIONS_MIN = 600;
/** The sizes of the others: 1/(rank + 10), so that no second one is nearly as large as the first. */
const RANK_SHIFT = 10;
/** Draws for a conversation that is alive; after them the largest takes the message, for it always is. Half are, on the whole. */
const DRAWS_MAX = 16;
const USERS = 5_000;
/** One entry in so many edits the message before it. */
const EDIT_EVERY = 50;
/** One message in so many names a number that no other one names: an order, a case. It is what rare words are. */
const NUMBER_EVERY = 20;

const MADE_UP_LINES = 20_000;
const MADE_UP_WORDS = 30_000;
const MADE_UP_LINE_WORDS = 24;

export interface PastConversation {
  readonly conversation: string;
  readonly epoch: string;
  entries: number;
  messages: number;
  lastAt: number;
}

export interface Past {
  /** The largest first. */
  readonly conversations: readonly PastConversation[];
  /** In the order in which they were committed. Once. */
  entries(): Generator<NewEntry>;
  /** Each word of the lines, in how many of them it stands, the commonest first. */
  readonly words: readonly (readonly [word: string, lines: number])[];
  readonly lines: readonly string[];
  /** Words that one message has. */
  readonly rare: readonly string[];
}

/** What was said in these logs; made up without any. */
export async function readLines(files: readonly string[]): Promise<string[]> {
  const lines: string[] = [];
  for (const file of files) {
    for (const event of parseLog(await Bun.file(file).bytes()).events)
      if (event.kind === "said") lines.push(event.text);
  }
  return lines.length > 0 ? lines : madeUpLines(createRandom(SEED));
}

function madeUpLines(random: Random): string[] {
  // The n-th commonest word of a language comes 1/n as often as the first.
  const word = () => `w${Math.floor(MADE_UP_WORDS ** random.next())}`;
  return Array.from({ length: MADE_UP_LINES }, () =>
    Array.from({ length: random.between(1, MADE_UP_LINE_WORDS) }, word).join(" "),
  );
}

export function createPast(count: number, lines: readonly string[]): Past {
  const random = createRandom(SEED);
  const lives = createLives(count, random);
  const conversations = lives.map(({ conversation }) => conversation);
  const rare: string[] = [];
  const startMs = Date.now() - SPAN_MS;

  function* entries(): Generator<NewEntry> {
    for (let i = 0; i < count; i++) {
      const progress = i / count;
      const conversation = drawConversation(lives, progress, random);
      const at = startMs + Math.floor(progress * SPAN_MS);
      conversation.entries += 1;
      conversation.lastAt = at;
      if (conversation.messages > 0 && i % EDIT_EVERY === EDIT_EVERY - 1) {
        yield edit(conversation, at, random.pick(lines));
        continue;
      }
      let text = random.pick(lines);
      if (i % NUMBER_EVERY === 0) {
        const number = `n${i}`;
        rare.push(number);
        text += ` ${number}`;
      }
      yield message(conversation, at, `user-${random.between(1, USERS)}`, text);
    }
  }

  return { conversations, entries, words: countWords(lines), lines, rare };
}

interface Life {
  readonly conversation: PastConversation;
  /** Of what the smaller ones have together: shares of those up to and with this one. */
  readonly upTo: number;
  /** When it lives, as shares of the span. */
  readonly from: number;
  readonly to: number;
}

/** The largest first, and to this day. */
function createLives(count: number, random: Random): Life[] {
  const size = Math.max(CONVERSATIONS_MIN, Math.ceil(count / ENTRIES_PER_CONVERSATION));
  const weights = Array.from({ length: size - 1 }, (_, rank) => 1 / (rank + RANK_SHIFT));
  const all = weights.reduce((sum, weight) => sum + weight, 0);
  let upTo = 0;
  return [0, ...weights].map((weight, i) => {
    upTo += weight / all;
    const conversation = { conversation: newId(i), epoch: "e1", entries: 0, messages: 0, lastAt: 0 };
    const from = i === 0 ? 0 : random.next() * 0.9;
    // Half of them go on to this day.
    const to = i === 0 || random.next() < 0.5 ? 1 : from + (1 - from) * random.next();
    return { conversation, upTo, from, to };
  });
}

function drawConversation(lives: readonly Life[], progress: number, random: Random): PastConversation {
  const largest = lives[0]!.conversation;
  if (random.next() < LARGEST_SHARE) return largest;
  for (let draw = 0; draw < DRAWS_MAX; draw++) {
    const wanted = random.next();
    let [low, high] = [1, lives.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (lives[middle]!.upTo > wanted) high = middle;
      else low = middle + 1;
    }
    const { conversation, from, to } = lives[low]!;
    if (progress >= from && progress <= to) return conversation;
  }
  return largest;
}

function message(conversation: PastConversation, at: number, from: string, text: string): NewEntry {
  conversation.messages += 1;
  const place = { conversation: conversation.conversation, seq: conversation.entries, id: newId(at) };
  const record: Message = { ...place, from, type: "text", body: { text }, sentAt: at };
  return { ...placed(conversation, place.id, at), kind: "message", record: JSON.stringify(record), text };
}

function edit(conversation: PastConversation, at: number, text: string): NewEntry {
  const { entries: seq } = conversation;
  const id = newId(at);
  const entry = { kind: "edit" as const, seq, id, by: "user-1", at, target: seq - 1, body: { text } };
  const parts = partsOf({ entry } as EntryEvent)!;
  const fold = { target: entry.target, parts };
  return { ...placed(conversation, id, at), kind: "edit", record: JSON.stringify(entry), fold, text };
}

function placed({ conversation, epoch, entries: seq, messages: ordinal }: PastConversation, id: string, at: number) {
  return { conversation, epoch, seq, id, ordinal, committedAt: at };
}

function countWords(lines: readonly string[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const line of lines) for (const word of wordsOf(line)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a);
}
