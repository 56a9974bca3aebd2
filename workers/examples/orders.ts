/**
 * A downstream service to copy: which orders do people talk about, and where? It reads every chat event with its own consumer
 * group, at its own pace, and keeps its own database. The chat does not know that it exists.
 *
 * An order is written `#12345` or `order 12345` (`Order no. 12345`, `orders 12345`): 1 to 12 digits.
 */

import { join } from "node:path";
import { textOf } from "../../lib/im/index.ts";
import type { Worker } from "../context.ts";
import { openLedger } from "./ledger.ts";

const ORDER_PATTERN = /(?:#|\borders?(?: (?:no\.?|number))?[ :]{1,3}#?)(\d{1,12})\b/gi;
/** A message names orders, it does not list thousands: what a single text may cost is bounded. */
const ORDERS_PER_MESSAGE_MAX = 50;

const SCHEMA = `CREATE TABLE IF NOT EXISTS orders (
  "order" TEXT, conversation TEXT, seq INTEGER, message TEXT, "from" TEXT,
  PRIMARY KEY ("order", conversation, seq)
) WITHOUT ROWID`;

/** The order numbers that a text names, each once, in the order of the text. */
export function ordersIn(text: string): string[] {
  const found = new Set<string>();
  for (const [, order] of text.matchAll(ORDER_PATTERN)) {
    found.add(order!);
    if (found.size === ORDERS_PER_MESSAGE_MAX) break;
  }
  return [...found];
}

export const worker: Worker = {
  role: "orders",
  async build({ config, queue }) {
    const ledger = openLedger({
      path: join(config.dataDir, "orders.db"),
      schema: SCHEMA,
      effect: (database) => {
        const insert = database.prepare("INSERT INTO orders VALUES (?, ?, ?, ?, ?)");
        return (messages) => {
          for (const message of messages) {
            const { id, conversation, seq, from } = message;
            for (const order of ordersIn(textOf(message))) insert.run(order, conversation, seq, id, from);
          }
        };
      },
    });
    return [ledger.consume(queue, "orders")];
  },
};
