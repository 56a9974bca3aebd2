/**
 * What the campaign on half messages is about: the shop's fates of an order, the orders to its processes, and the evidence.
 *
 * A producer prepares a half, does its local transaction in the shop's own database (SQLite), and decides, unless its fate is to
 * die first. Members of the producer group answer checks by what the database knows.
 */

import { Database } from "bun:sqlite";
import type { HalfState, HalfTimes } from "../../lib/mq/index.ts";
import type { Random } from "./random.ts";

export const PARTITIONS = 16;
export const TOPIC = "orders";
export const PRODUCER_GROUP = "shop";

/** As in life, some hundred times faster; the fewest checks that a half may see are the same 15. */
export const TIMES: Partial<HalfTimes> = {
  firstCheckMs: 200,
  checkWaitsMs: Array.from({ length: 15 }, (_, n) => Math.min(400, Math.round(100 * 1.2 ** n))),
  budgetMs: 15_000,
  lookMs: 50,
};

/**
 * What becomes of an order:
 *
 *   commit, rollback   the producer decides once      commits   it commits four times at once
 *   race               it commits and rolls back at once, twice each
 *   dies decided       it dies between its local transaction and its answer: the database knows
 *   dies undecided     it dies before its local transaction is done: nobody knows it
 *   unknown            the shop never knows; every check is answered so
 */
export type Fate = "commit" | "commits" | "rollback" | "race" | "dies decided" | "dies undecided" | "unknown";

/** In hundredths. 30 die before their answer. */
const SHARES: readonly (readonly [Fate, number])[] = [
  ["commit", 30],
  ["commits", 10],
  ["rollback", 15],
  ["race", 10],
  ["dies decided", 20],
  ["dies undecided", 10],
  ["unknown", 5],
];

export function fateOf(random: Random): Fate {
  let left = random.next() * 100;
  for (const [fate, share] of SHARES) {
    if (left < share) return fate;
    left -= share;
  }
  return "commit";
}

export interface ProcessOrder {
  readonly role: "producer" | "member";
  readonly name: string;
  readonly redisUrl: string;
  readonly prefix: string;
  readonly evidencePath: string;
  readonly databasePath: string;
  readonly seed: number;
  /** Of a producer: the numbers of its orders. */
  readonly from: number;
  readonly to: number;
}

/** `limbo`: a producer has come to the end of its orders; those whose fate it is are prepared and not answered. */
export type ProcessEvent = { readonly type: "ready" } | { readonly type: "prepared" } | { readonly type: "limbo" };

export type Decision = "commit" | "rollback";

export type HalfLine =
  | { readonly e: "prepared"; readonly n: number; readonly id: string; readonly fate: Fate; readonly t: number }
  /** Before each call that asks for a decision, by the producer or by an answer to a check. */
  | { readonly e: "asked"; readonly id: string; readonly decision: Decision; readonly t: number }
  /** What it was told: the state that the half has, by a reply or by a 409. */
  | { readonly e: "told"; readonly id: string; readonly state: HalfState; readonly t: number }
  | { readonly e: "check"; readonly id: string; readonly check: number; readonly t: number };

/** What the shop's database says of an order, by the id of its transaction. */
export type Outcome = Decision | "unknown";

/** Another process may hold the file's lock for as long as it is being killed. */
const BUSY_MS = 10_000;

export interface Shop {
  /** The local transaction. False: it has an outcome already. */
  decide(id: string, outcome: Outcome): boolean;
  outcomeOf(id: string): Outcome | undefined;
  close(): void;
}

export function openShop(path: string): Shop {
  const database = new Database(path, { create: true });
  // Processes are killed, the machine is not.
  database.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
  database.run("PRAGMA journal_mode = WAL");
  database.run("PRAGMA synchronous = OFF");
  database.run("CREATE TABLE IF NOT EXISTS outcomes (id TEXT PRIMARY KEY, outcome TEXT NOT NULL) WITHOUT ROWID");
  const insert = database.prepare("INSERT INTO outcomes VALUES (?, ?) ON CONFLICT DO NOTHING");
  const select = database.prepare<{ outcome: Outcome }, [string]>("SELECT outcome FROM outcomes WHERE id = ?");
  return {
    decide: (id, outcome) => insert.run(id, outcome).changes === 1,
    outcomeOf: (id) => select.get(id)?.outcome,
    close: () => database.close(),
  };
}
