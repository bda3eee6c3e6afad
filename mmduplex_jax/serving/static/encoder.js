// A worker that makes JPEGs: beside the page, which draws and listens meanwhile.
// In: {id, bitmap, width, height, quality}. Out: {id, jpeg: ArrayBuffer}.

const canvas = new OffscreenCanvas(1, 1);

onmessage = async ({ data: { id, bitmap, width, height, quality } }) => {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality });
  const jpeg = await blob.arrayBuffer();
  postMessage({ id, jpeg }, [jpeg]);
};
