/** A browser's end of Web Push: its key pair, and RFC 8291 read backwards. */

import { createDecipheriv, createECDH, hkdfSync, randomBytes } from "node:crypto";

export function makeBrowser(endpoint: string) {
  const ecdh = createECDH("prime256v1");
  const publicKey = ecdh.generateKeys();
  const auth = randomBytes(16);
  return {
    subscription: { endpoint, keys: { p256dh: publicKey.toString("base64url"), auth: auth.toString("base64url") } },
    decrypt(body: Buffer): string {
      const salt = body.subarray(0, 16);
      const sender = body.subarray(21, 21 + body[20]!);
      const cipher = body.subarray(21 + body[20]!);
      const hkdf = (key: Uint8Array, salted: Uint8Array, info: Uint8Array, length: number) =>
        Buffer.from(hkdfSync("sha256", key, salted, info, length));
      const info = Buffer.concat([Buffer.from("WebPush: info\0"), publicKey, sender]);
      const secret = hkdf(ecdh.computeSecret(sender), auth, info, 32);
      const key = hkdf(secret, salt, Buffer.from("Content-Encoding: aes128gcm\0"), 16);
      const nonce = hkdf(secret, salt, Buffer.from("Content-Encoding: nonce\0"), 12);
      const decipher = createDecipheriv("aes-128-gcm", key, nonce);
      decipher.setAuthTag(cipher.subarray(-16));
      const plain = Buffer.concat([decipher.update(cipher.subarray(0, -16)), decipher.final()]);
      // The last record ends with 2 and padding.
      return plain.subarray(0, plain.lastIndexOf(2)).toString();
    },
  };
}
