/**
 * A downstream service to copy: how much is said, per conversation and hour. It counts a batch in memory and writes each
 * count once, in the transaction that notes the batch as seen; so a repeated batch counts nothing twice.
 */

import { join } from "node:path";
import type { Worker } from "../context.ts";
import { openLedger } from "./ledger.ts";

const HOUR_MS = 3_600_000;

/** `hour` is its begin in ms since 1970, UTC. */
const SCHEMA = `CREATE TABLE IF NOT EXISTS trades (
  conversation TEXT, hour INTEGER, messages INTEGER,
  PRIMARY KEY (conversation, hour)
) WITHOUT ROWID`;

export const worker: Worker = {
  role: "trades",
  async build({ config, queue }) {
    const ledger = openLedger({
      path: join(config.dataDir, "trades.db"),
      schema: SCHEMA,
      effect: (database) => {
        const add = database.prepare(
          `INSERT INTO trades VALUES (?, ?, ?)
            ON CONFLICT DO UPDATE SET messages = messages + excluded.messages`,
        );
        return (messages) => {
          const hours = new Map<string, Map<number, number>>();
          for (const { conversation, sentAt } of messages) {
            const hour = sentAt - (sentAt % HOUR_MS);
            const counts = hours.get(conversation) ?? new Map<number, number>();
            counts.set(hour, (counts.get(hour) ?? 0) + 1);
            hours.set(conversation, counts);
          }
          for (const [conversation, counts] of hours) {
            for (const [hour, count] of counts) add.run(conversation, hour, count);
          }
        };
      },
    });
    return [ledger.consume(queue, "trades")];
  },
};
