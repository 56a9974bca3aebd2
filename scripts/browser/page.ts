/** The app of lib/client/README.md as files: what is printed there, beside a copy of the folder, with addresses that are there now. */

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const CLIENT = join(import.meta.dir, "../../lib/client");
/** As the page prints them. */
const GATEWAY = "ws://127.0.0.1:7400/v1/ws";
const TOKENS = "http://127.0.0.1:3000/chat-token";

export interface Addresses {
  /** Of the WebSocket. */
  readonly gateway: string;
  /** Answers with alice's token, as the app's backend would. */
  readonly tokens: string;
}

/** Writes app.ts, store.ts and chat/ into the folder; returns the path of app.ts. Throws when the page prints other addresses. */
export function layOutPage(folder: string, { gateway, tokens }: Addresses): string {
  const page = readFileSync(join(CLIENT, "README.md"), "utf8");
  const [app, store] = Array.from(page.matchAll(/^```ts\n(.*?)^```$/gms), ([, code]) => code!);
  if (!app?.includes(GATEWAY) || !app.includes(TOKENS) || !store) throw new Error("the page is not as it was");
  cpSync(CLIENT, join(folder, "chat"), { recursive: true });
  writeFileSync(join(folder, "store.ts"), store);
  writeFileSync(join(folder, "app.ts"), app.replace(GATEWAY, gateway).replace(TOKENS, tokens));
  return join(folder, "app.ts");
}
