-- The mean of a seller's last ten prices. Ties of date_time are broken by the auction.
SELECT
    q.seller,
    q.id,
    avg(q.final) OVER (PARTITION BY q.seller ORDER BY q.date_time, q.id ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS avg
FROM (
    SELECT a.id, a.seller, max(b.price) AS final, max(b.date_time) AS date_time
    FROM auction AS a, bid AS b
    WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.seller
) AS q
