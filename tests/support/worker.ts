/** Real supervisors and units (scripts/harness.ts) as a test uses them: a user of the API, and starts that must fail. */

import { join } from "node:path";
import { childEnvironment } from "../../lib/config.ts";
import type { PrivateSkein } from "../../scripts/harness.ts";
import { createApi } from "../../scripts/load/api.ts";

/** How a start that is expected to fail may take at most. */
const EXIT_WITHIN_MS = 25_000;
const CALL_TIMEOUT_MS = 10_000;

/** alice and bob over the public API: `say` sends under a clientId of its own, `heard` is what bob reads. */
export async function openTalk({ url, serviceKey }: Pick<PrivateSkein, "url" | "serviceKey">) {
  const api = createApi({ url, serviceKey });
  const conversation = await api.createConversation("alice", { type: "direct", members: ["bob"] });
  let count = 0;
  return {
    async say(text: string): Promise<void> {
      count += 1;
      const response = await fetch(`${url}/v1/conversations/${conversation}/messages`, {
        method: "POST",
        headers: {
          authorization: `Bearer ${serviceKey}`,
          "skein-user": "alice",
          "content-type": "application/json",
        },
        body: JSON.stringify({ clientId: `${text.replaceAll(" ", "-")}.${count}`, body: { text } }),
        signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
      });
      if (!response.ok) throw new Error(`send: ${response.status} ${await response.text()}`);
    },
    async heard(): Promise<string[]> {
      const { messages } = await api.history("bob", conversation, 0, 200);
      return messages.map(({ body }) => body.text);
    },
  };
}

export interface EndedStart {
  readonly code: number;
  readonly output: string;
}

/** Runs `bun run workers …` as a person would, until it ends by itself. Killed, with code 137, when it does not. */
export async function runWorkers(args: readonly string[], env: Record<string, string>): Promise<EndedStart> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../scripts/workers.ts"), ...args], {
    env: childEnvironment(env, "none"),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), EXIT_WITHIN_MS);
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  clearTimeout(timer);
  return { code, output: stdout + stderr };
}
