// Browsers start no Worker for pages that are opened as files. Search needs one, so here an iframe takes its place.
"use strict";

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      const inside = frame.contentWindow;
      const ready = new Promise((resolve) => {
        inside.postMessage = (data) => {
          const event = new MessageEvent("message", { data });
          this.dispatchEvent(event);
          this.onmessage?.(event);
        };
        inside.importScripts = (...urls) => Promise.all(urls.map((each) => this.#load(inside, each)));
        this.#load(inside, url).then(resolve);
      });
      this.postMessage = (data) => {
        ready.then(() => {
          const event = new inside.MessageEvent("message", { data });
          inside.onmessage?.(event);
          inside.dispatchEvent(event);
        });
      };
      this.terminate = () => frame.remove();
    }

    #load(inside, url) {
      return new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.src = new URL(url, document.baseURI).href;
        script.onload = resolve;
        script.onerror = reject;
        inside.document.documentElement.append(script);
      });
    }
  };
}
