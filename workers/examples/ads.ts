/** A downstream service to copy: which of our keywords come up, where, and how often. One keyword counts once per message. */

import { join } from "node:path";
import { textOf } from "../../lib/im/index.ts";
import type { Worker } from "../context.ts";
import { openLedger } from "./ledger.ts";

/** What advertisers asked for: whole words, in any case. */
const KEYWORDS = ["install", "update", "kernel", "driver", "wireless", "nvidia", "sound", "firefox", "gnome", "kde"];

const KEYWORD_PATTERN = new RegExp(`\\b(${KEYWORDS.join("|")})\\b`, "g");

const SCHEMA = `CREATE TABLE IF NOT EXISTS ads (
  keyword TEXT, conversation TEXT, messages INTEGER,
  PRIMARY KEY (keyword, conversation)
) WITHOUT ROWID`;

/** The keywords that a text holds, each once. */
export function keywordsIn(text: string): Set<string> {
  return new Set(text.toLowerCase().match(KEYWORD_PATTERN));
}

export const worker: Worker = {
  role: "ads",
  async build({ config, queue }) {
    const ledger = openLedger({
      path: join(config.dataDir, "ads.db"),
      schema: SCHEMA,
      effect: (database) => {
        const add = database.prepare(
          "INSERT INTO ads VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET messages = messages + 1",
        );
        return (messages) => {
          for (const message of messages) {
            for (const keyword of keywordsIn(textOf(message))) add.run(keyword, message.conversation);
          }
        };
      },
    });
    return [ledger.consume(queue, "ads")];
  },
};
