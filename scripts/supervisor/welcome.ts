/** What a start tells people: where it listens, a first message that really went through, and what to type next. */

import type { Config } from "../../lib/config.ts";
import type { Output } from "./output.ts";
import type { PlannedUnit } from "./plan.ts";

interface WelcomeParts {
  readonly config: Config;
  readonly urls: readonly string[];
  readonly plan: readonly PlannedUnit[];
  readonly output: Output;
  readonly serviceKey: string;
  readonly redisPort: number | undefined;
  /** Of an embedded Redis: then a message of ours disturbs nobody. */
  readonly isFirstStart: boolean;
}

/** The whole of it takes some 20 ms. */
const CALL_TIMEOUT_MS = 10_000;
const FIRST = { clientId: "first-message", body: { text: "Hello Bob, this is Skein. Order #1 is on its way." } };

export async function welcome(parts: WelcomeParts): Promise<void> {
  const { config, urls, plan, output, serviceKey, redisPort, isFirstStart } = parts;
  const [url] = urls;
  if (url === undefined) {
    output.say(`Skein runs ${plan.map(({ name }) => name).join(", ")}.`);
    return;
  }
  const bun = isBunInstalled() ? "bun" : "npx --yes bun@1.4.5";
  const redis = redisPort === undefined ? "" : `, its Redis on 127.0.0.1:${redisPort}`;
  output.say(`\nSkein listens on ${urls.join(", ")}${redis}; data in ${config.dataDir}. Ctrl-C stops it.`);
  if (isFirstStart && plan.some(({ roles }) => roles.includes("logic")))
    output.say(await firstMessage(url, serviceKey));
  output.say(
    `\nChat in two more terminals:\n\n    ${bun} run skein chat alice\n    ${bun} run skein chat bob\n\n` +
      `The API: ${url}/docs. Health: ${url}/readyz. More: ${bun} run skein --help\n`,
  );
}

/** alice writes to bob by the public API, as any client would, and bob reads it back. */
async function firstMessage(url: string, serviceKey: string): Promise<string> {
  const call = async (user: string, method: string, path: string, body?: unknown) => {
    const response = await fetch(url + path, {
      method,
      signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
      headers: { Authorization: `Bearer ${serviceKey}`, "Skein-User": user, "Content-Type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const reply = (await response.json()) as Record<string, unknown>;
    if (!response.ok) throw new Error(`${method} ${path} answered ${response.status}: ${reply.detail}`);
    return reply;
  };
  try {
    const { conversation } = (await call("alice", "POST", "/v1/conversations", {
      type: "direct",
      members: ["bob"],
    })) as {
      conversation: { id: string };
    };
    const path = `/v1/conversations/${conversation.id}/messages`;
    const startedMs = performance.now();
    const { seq } = await call("alice", "POST", path, FIRST);
    const ackMs = (performance.now() - startedMs).toFixed(1);
    const { messages } = (await call("bob", "GET", `${path}?after=${Number(seq) - 1}&limit=1`)) as {
      messages: { from: string; body: { text: string } }[];
    };
    const [message] = messages;
    return `First message: ${message?.from} to bob, seq ${seq}, acknowledged in ${ackMs} ms: "${message?.body.text}"`;
  } catch (error) {
    return `The first message did not go through: ${(error as Error).message}`;
  }
}

/** Whether the user's next shell finds `bun`: npx puts its own copy on the PATH of this process only. */
function isBunInstalled(): boolean {
  const found = Bun.which("bun");
  return found !== null && !found.includes("/_npx/");
}
