"""Complete payloads in the published format of each channel, as dictionaries that tests change."""

from typing import Any


def taobao_trade() -> dict[str, Any]:
    return {
        "tid": 4100000000000000117,
        "tid_str": "4100000000000000117",
        "status": "WAIT_SELLER_SEND_GOODS",
        "type": "fixed",
        "title": "恒单测试店",
        "payment": "168.60",
        "post_fee": "8.00",
        "total_fee": "178.60",
        "discount_fee": "0.00",
        "adjust_fee": "0.00",
        "created": "2026-11-11 00:00:03",
        "modified": "2026-11-11 00:01:30",
        "pay_time": "2026-11-11 00:01:29",
        "receiver_name": "张*",
        "receiver_state": "广东省",
        "receiver_city": "深圳市",
        "receiver_district": "南山区",
        "receiver_town": "粤海街道",
        "receiver_address": "粤海街道科技园路*号",
        "receiver_zip": "518000",
        "receiver_mobile": "*******5678",
        "oaid": "1DhlKpLQ9Jnc8Yc2UfPV5Q",
        "buyer_nick": "t**1",
        "buyer_open_uid": "AAHm5d-EAEdYm2",
        "buyer_message": "请发顺丰",
        "seller_memo": "",
        "seller_flag": 0,
        "shipping_type": "express",
        "trade_from": "WAP,WAP",
        "is_part_consign": False,
        "orders": {
            "order": [
                {
                    "oid": 4100000000000000118,
                    "num": 2,
                    "num_iid": 600000000001,
                    "sku_id": "5000000000001",
                    "outer_iid": "TEE",
                    "outer_sku_id": "A001",
                    "title": "纯棉T恤",
                    "sku_properties_name": "颜色:白;尺码:L",
                    "price": "59.00",
                    "payment": "118.00",
                    "divide_order_fee": "108.00",
                    "part_mjz_discount": "10.00",
                    "discount_fee": "0.00",
                    "adjust_fee": "0.00",
                    "refund_status": "NO_REFUND",
                    "status": "WAIT_SELLER_SEND_GOODS",
                    "seller_type": "B",
                },
                {
                    "oid": 4100000000000000119,
                    "num": 1,
                    "num_iid": 600000000002,
                    "outer_iid": "B007",
                    "title": "帆布袋",
                    "price": "57.60",
                    "payment": "52.60",
                    "discount_fee": "5.00",
                    "adjust_fee": "0.00",
                    "refund_status": "NO_REFUND",
                    "status": "WAIT_SELLER_SEND_GOODS",
                    "seller_type": "B",
                },
            ]
        },
        "promotion_details": {"promotion_detail": [{"id": 4100000000000000117, "discount_fee": "10.00"}]},
        "service_tags": {},
    }


def taobao_fullinfo(trade: Any = None) -> dict[str, Any]:
    trade = taobao_trade() if trade is None else trade
    return {"trade_fullinfo_get_response": {"trade": trade, "request_id": "16e5jk0s7a4b"}}


def shopify_order() -> dict[str, Any]:
    return {
        "id": 820982911946154508,
        "admin_graphql_api_id": "gid://shopify/Order/820982911946154508",
        "name": "#9999",
        "order_number": 9999,
        "test": False,
        "confirmed": True,
        "created_at": "2026-11-20T09:00:00-05:00",
        "updated_at": "2026-11-20T09:00:07-05:00",
        "processed_at": "2026-11-20T09:00:00-05:00",
        "cancelled_at": None,
        "cancel_reason": None,
        "closed_at": None,
        "currency": "USD",
        "financial_status": "paid",
        "fulfillment_status": None,
        "landing_site": "/products/tee?utm_source=mail&utm_campaign=autumn",
        "source_name": "web",
        "note": "Please leave at the door",
        "tags": "vip, Urgent",
        "payment_gateway_names": ["shopify_payments"],
        "taxes_included": False,
        "total_tax": "4.50",
        "total_discounts": "15.00",
        "subtotal_price": "85.00",
        "total_price": "99.50",
        "current_total_price": "99.50",
        "phone": None,
        "email": "pat@example.com",
        "customer": {"id": 115310627314723954, "phone": "+12025550101", "email": "pat@example.com"},
        "shipping_address": {
            "first_name": "Pat",
            "last_name": "Doe",
            "name": "Pat Doe",
            "company": None,
            "address1": "92 Chestnut Street",
            "address2": "Apt 5",
            "city": "Louisville",
            "province": "Kentucky",
            "province_code": "KY",
            "country": "United States",
            "country_code": "US",
            "zip": "40202",
            "phone": None,
            "latitude": 38.25,
            "longitude": -85.75,
        },
        "shipping_lines": [{"title": "Standard", "price": "10.00", "discount_allocations": []}],
        "discount_codes": [{"code": "AUTUMN", "amount": "15.00", "type": "fixed_amount"}],
        "line_items": [
            {
                "id": 866550311766439020,
                "variant_id": 808950810,
                "sku": "A001",
                "title": "Tee",
                "variant_title": "White / L",
                "quantity": 4,
                "current_quantity": 4,
                "fulfillable_quantity": 4,
                "price": "20.00",
                "total_discount": "0.00",
                "discount_allocations": [{"amount": "12.00", "discount_application_index": 0}],
                "requires_shipping": True,
                "fulfillment_status": None,
                "properties": [],
            },
            {
                "id": 866550311766439021,
                "variant_id": 808950811,
                "sku": "B007",
                "title": "Bag",
                "variant_title": None,
                "quantity": 1,
                "current_quantity": 1,
                "price": "20.00",
                "total_discount": "0.00",
                "discount_allocations": [{"amount": "3.00", "discount_application_index": 0}],
                "requires_shipping": True,
            },
        ],
        "refunds": [],
        "fulfillments": [],
    }


def own_order() -> dict[str, Any]:
    return {
        "event_id": "evt_1",
        "order_no": "W10001",
        "placed_at": "2026-11-20T12:00:00+08:00",
        "updated_at": "2026-11-20T12:00:05+08:00",
        "paid_at": "2026-11-20T12:00:05+08:00",
        "promised_by": "2026-11-23T18:00:00+08:00",
        "currency": "CNY",
        "lines": [
            {"line_no": "a", "sku": "A001", "title": "纯棉T恤", "quantity": 2, "unit_price": "59.00", "discount": "10"},
            {"line_no": "b", "sku": "B007", "quantity": 1, "unit_price": "57.60"},
        ],
        "freight": "8.00",
        "discount": "5.00",
        "total": "168.60",
        "recipient": {
            "name": "李雷",
            "phone": "13800138000",
            "province": "上海市",
            "city": "上海市",
            "district": "浦东新区",
            "street": "世纪大道1号",
        },
        "buyer": "u-77",
        "buyer_message": "生日礼物",
        "carrier": "sf",
        "urgent": True,
        "campaign": "double11",
        "custom": {"gift_wrap": True, "engraving": {"font": "kai"}},
    }


def pos_order() -> dict[str, Any]:
    order = own_order()
    for field in ("event_id", "order_no", "updated_at", "paid_at"):
        del order[field]
    return order | {"store": "SH-01", "terminal": "T2", "receipt_no": "000317"}


def amazon_order() -> dict[str, Any]:
    """An unshipped order of two lines in the United States, prices without tax."""

    def usd(amount: str) -> dict[str, str]:
        return {"CurrencyCode": "USD", "Amount": amount}

    return {
        "order": {
            "AmazonOrderId": "902-1845936-5435065",
            "PurchaseDate": "2026-11-20T09:00:00Z",
            "LastUpdateDate": "2026-11-20T09:31:07Z",
            "OrderStatus": "Unshipped",
            "FulfillmentChannel": "MFN",
            "SalesChannel": "Amazon.com",
            "ShipServiceLevel": "Std US D2D Dom",
            "OrderTotal": usd("46.60"),
            "NumberOfItemsShipped": 0,
            "NumberOfItemsUnshipped": 4,
            "PaymentMethod": "Other",
            "PaymentMethodDetails": ["Standard"],
            "IsReplacementOrder": False,
            "MarketplaceId": "ATVPDKIKX0DER",
            "ShipmentServiceLevelCategory": "Standard",
            "OrderType": "StandardOrder",
            "EarliestShipDate": "2026-11-20T10:00:00Z",
            "LatestShipDate": "2026-11-23T07:59:59Z",
            "EarliestDeliveryDate": "2026-11-25T08:00:00Z",
            "LatestDeliveryDate": "2026-11-28T07:59:59Z",
            "IsBusinessOrder": False,
            "IsPrime": True,
            "IsPremiumOrder": False,
            "IsISPU": False,
            "HasRegulatedItems": False,
            "ShippingAddress": {
                "Name": "Pat Doe",
                "AddressLine1": "1 Cross St.",
                "AddressLine2": "Apt 5",
                "City": "Canton",
                "StateOrRegion": "MI",
                "PostalCode": "48817",
                "CountryCode": "US",
                "Phone": "+1 480-386-0930 ext. 73824",
                "AddressType": "Residential",
            },
            "BuyerInfo": {"BuyerEmail": "abc123@marketplace.amazon.com", "PurchaseOrderNumber": ""},
            "AutomatedShippingSettings": {"HasAutomatedShippingSettings": False},
        },
        "items": [
            {
                "ASIN": "B00551Q3CS",
                "OrderItemId": "05015851154158",
                "SellerSKU": "A001",
                "Title": "Tee",
                "QuantityOrdered": 3,
                "QuantityShipped": 0,
                "ProductInfo": {"NumberOfItems": "1"},
                "ItemPrice": usd("20.00"),
                "ItemTax": usd("1.20"),
                "ShippingPrice": usd("5.00"),
                "ShippingTax": usd("0.00"),
                "ShippingDiscount": usd("1.00"),
                "PromotionDiscount": usd("2.00"),
                "PromotionIds": ["FREESHIP"],
                "IsGift": "true",
                "BuyerInfo": {"GiftMessageText": "For you!", "GiftWrapPrice": usd("3.00"), "GiftWrapLevel": "Classic"},
            },
            {
                "ASIN": "B00551Q3CT",
                "OrderItemId": "05015851154159",
                "Title": "Bag",
                "QuantityOrdered": 1,
                "QuantityShipped": 0,
                "ItemPrice": usd("19.00"),
                "ItemTax": usd("1.40"),
                "BuyerRequestedCancel": {"IsBuyerRequestedCancel": "false", "BuyerCancelReason": ""},
            },
        ],
        "refunds": [],
    }


def amazon_notification() -> dict[str, Any]:
    return {
        "NotificationVersion": "1.0",
        "NotificationType": "ORDER_CHANGE",
        "PayloadVersion": "1.0",
        "EventTime": "2026-11-20T09:31:53.109Z",
        "Payload": {
            "OrderChangeNotification": {
                "NotificationLevel": "OrderLevel",
                "SellerId": "A3TH9S8BH6GOGM",
                "AmazonOrderId": "903-8868176-2219830",
                "OrderChangeType": "BuyerRequestedChange",
                "OrderChangeTrigger": {
                    "TimeOfOrderChange": "2026-11-20T09:31:04.284Z",
                    "ChangeReason": "Buyer Requested Cancel",
                },
                "Summary": {
                    "MarketplaceId": "ATVPDKIKX0DER",
                    "OrderStatus": "Unshipped",
                    "FulfillmentType": "MFN",
                    "OrderType": "StandardOrder",
                    "NumberOfItemsUnshipped": 10,
                    "OrderItems": [{"OrderItemId": "OIID34853450", "SellerSKU": "SellerSKUID1", "Quantity": 10}],
                },
            }
        },
        "NotificationMetadata": {
            "ApplicationId": "app-id-d0e9e693",
            "SubscriptionId": "subscription-id-d0e9e693",
            "PublishTime": "2026-11-20T09:31:54.284Z",
            "NotificationId": "d0e9e693-c3ad-4373-979f-ed4ec98dd746",
        },
    }


def woocommerce_order() -> dict[str, Any]:
    """The published example with discounts, a fee and additional tax."""
    address = {
        "first_name": "John",
        "last_name": "Doe",
        "company": "",
        "address_1": "969 Market",
        "address_2": "Floor 2",
        "city": "San Francisco",
        "state": "CA",
        "postcode": "94103",
        "country": "US",
        "phone": "",
    }
    return {
        "id": 727,
        "parent_id": 0,
        "number": "W-1727",
        "created_via": "checkout",
        "status": "processing",
        "currency": "USD",
        "date_created": "2026-11-20T16:28:02",
        "date_created_gmt": "2026-11-20T19:28:02",
        "date_modified_gmt": "2026-11-20T19:30:08",
        "discount_total": "3.00",
        "shipping_total": "10.00",
        "shipping_tax": "0.00",
        "cart_tax": "1.35",
        "total": "27.35",
        "total_tax": "1.35",
        "prices_include_tax": False,
        "customer_id": 26,
        "customer_note": "Ring twice",
        "billing": address | {"email": "john.doe@example.com", "phone": "(555) 555-5555", "company": "ACME"},
        "shipping": address,
        "payment_method": "stripe",
        "date_paid_gmt": "2026-11-20T19:29:00",
        "date_completed_gmt": None,
        "meta_data": [
            {"id": 1, "key": "_wc_order_attribution_utm_campaign", "value": "autumn"},
            {"id": 2, "key": "_other", "value": {"a": [1]}},
        ],
        "line_items": [
            {
                "id": 315,
                "name": "Woo Single #1",
                "product_id": 93,
                "variation_id": 0,
                "quantity": 3,
                "subtotal": "10.00",
                "subtotal_tax": "0.45",
                "total": "7.00",
                "total_tax": "0.45",
                "meta_data": [],
                "sku": "",
                "price": 2.333333,
            },
            {
                "id": 316,
                "name": "Ship Your Idea &ndash; Color: Black",
                "product_id": 22,
                "variation_id": 23,
                "quantity": 1,
                "subtotal": "12.00",
                "total": "12.00",
                "total_tax": "0.90",
                "meta_data": [{"id": 2095, "key": "pa_color", "value": "black"}],
                "sku": "Bar3",
                "price": 12,
            },
        ],
        "shipping_lines": [{"id": 317, "method_title": "Flat Rate", "method_id": "flat_rate", "total": "10.00"}],
        "fee_lines": [{"id": 318, "name": "Gift card", "total": "-4.00"}, {"id": 319, "name": "Wrap", "total": "1.00"}],
        "coupon_lines": [{"id": 320, "code": "ten", "discount": "3.00"}],
        "refunds": [],
    }


def woocommerce_read() -> dict[str, Any]:
    """An order as read: one of three pieces refunded with its tax, and a part of the shipping."""
    order = woocommerce_order() | {"refunds": [{"id": 726, "reason": "", "total": "-5.00"}]}
    line = {
        "id": 330,
        "name": "Woo Single #1",
        "quantity": -1,
        "total": "-2.33",
        "total_tax": "-0.15",
        "meta_data": [{"id": 9, "key": "_refunded_item_id", "value": "315"}],
    }
    refund = {
        "id": 726,
        "date_created_gmt": "2026-11-20T20:07:11",
        "amount": "5.00",
        "reason": "Too many",
        "refunded_payment": False,
        "line_items": [line],
    }
    return {"order": order, "refunds": [refund]}


def jd_order() -> dict[str, Any]:
    """Bought and given the same SKU; a coupon of the merchant's and one of JD's."""
    items = [
        {
            "skuId": "100001",
            "outerSkuId": "A001",
            "wareId": "5",
            "skuName": "T恤",
            "jdPrice": "59.00",
            "itemTotal": "2",
        },
        {
            "skuId": "100001",
            "outerSkuId": "A001",
            "wareId": "5",
            "skuName": "赠品",
            "jdPrice": "0.00",
            "itemTotal": "1",
        },
    ]
    order = {
        "orderId": "290000000117",
        "orderType": "22",
        "payType": "4-在线支付",
        "orderTotalPrice": "118.00",
        "sellerDiscount": "10.00",
        "orderSellerPrice": "108.00",
        "orderPayment": "111.00",
        "freightPrice": "8.00",
        "orderState": "WAIT_SELLER_STOCK_OUT",
        "orderStartTime": "2026-11-11 00:00:03",
        "paymentConfirmTime": "2026-11-11 00:01:29",
        "modified": "2026-11-11 00:01:30",
        "venderRemark": "",
        "orderRemark": "请发顺丰",
        "open_id_buyer": "buyer",
        "invoiceInfo": "发票类型:电子普通发票;发票抬头:王小明;发票内容:商品明细",
        "consigneeInfo": {
            "fullname": "王小明",
            "mobile": "13812345678",
            "fullAddress": "上海市上海市杨浦区平凉路街道江浦路1号",
            "province": "上海市",
            "city": "上海市",
            "county": "杨浦区",
            "town": "平凉路街道",
        },
        "itemInfoList": items,
        "couponDetailList": [
            {"skuId": "100001", "couponType": "30-单品促销优惠", "couponPrice": "10.00"},
            {"skuId": "", "couponType": "39-京豆优惠", "couponPrice": "5.00"},
        ],
    }
    return {"orderInfo": order, "services": []}


def pdd_order() -> dict[str, Any]:
    """With a gift, a service that requires SF, and a price that the merchant changed."""
    item = {"goods_id": 55, "sku_id": 66, "outer_id": "A001", "goods_name": "T恤", "goods_spec": "白,L"}
    order = {
        "order_sn": "261111-000000117",
        "order_status": 1,
        "refund_status": 1,
        "confirm_status": 1,
        "group_status": 1,
        "risk_control_status": 0,
        "pay_amount": "125.00",
        "goods_amount": "115.00",
        "order_change_amount": "3.00",
        "seller_discount": "5.00",
        "platform_discount": "0.00",
        "postage": "3.00",
        "service_fee_detail": [{"service_name": "顺丰加价", "service_fee": "12.00"}],
        "is_pre_sale": 1,
        "pre_sale_time": "2026-11-20 00:00:00",
        "receiver_name": "~AgAAAAK9dA==~1~",
        "receiver_phone": "$AgAAAAK9dB==$1$$",
        "receiver_address": "~AgAAAAK9dC==~1~",
        "receiver_name_mask": "王**",
        "receiver_phone_mask": "138****5678",
        "receiver_address_mask": "***",
        "province": "上海市",
        "city": "上海市",
        "town": "杨浦区",
        "created_time": "2026-11-11 00:00:03",
        "pay_time": "2026-11-11 00:01:29",
        "confirm_time": "2026-11-11 00:01:29",
        "updated_at": "2026-11-11 00:01:30",
        "item_list": [item | {"goods_count": 2, "goods_price": "59.00"}],
        "gift_list": [{"goods_id": 77, "sku_id": 88, "outer_id": "G001", "goods_name": "袜子", "goods_count": 1}],
    }
    plain = [
        {"encrypted_data": order["receiver_name"], "decrypted_data": "王小明"},
        {"encrypted_data": order["receiver_phone"], "decrypted_data": "13812345678"},
        {"encrypted_data": order["receiver_address"], "decrypted_data": "江浦路1号"},
    ]
    return {"order_info": order, "data_decrypt_list": plain}


def douyin_order() -> dict[str, Any]:
    line = {
        "order_id": "7000000000000000117",
        "product_id": 55,
        "sku_id": 66,
        "code": "A001",
        "product_name": "T恤",
        "item_num": 2,
        "origin_amount": 5900,
        "shop_cost_amount": 1000,
        "pay_amount": 10800,
        "order_status": 2,
        "goods_type": 0,
    }
    order = {
        "order_id": "7000000000000000117",
        "order_status": 2,
        "order_type": 0,
        "pay_type": 1,
        "create_time": 1794326403,
        "update_time": 1794326490,
        "pay_time": 1794326489,
        "exp_ship_time": 1794500000,
        "pay_amount": 11600,
        "post_amount": 800,
        "buyer_words": "",
        "doudian_open_id": "buyer",
        "encrypt_post_tel": "##a",
        "encrypt_post_receiver": "##b",
        "mask_post_tel": "138****5678",
        "mask_post_receiver": "王**",
        "post_addr": {
            "province": {"name": "上海市"},
            "city": {"name": "上海市"},
            "town": {"name": "杨浦区"},
            "street": {"name": "平凉路街道"},
            "encrypt_detail": "##c",
        },
        "sku_order_list": [line],
    }
    plain = [
        {"cipher_text": "##a", "decrypt_text": "13812345678", "err_no": 0},
        {"cipher_text": "##b", "decrypt_text": "王小明", "err_no": 0},
        {"cipher_text": "##c", "decrypt_text": "江浦路1号", "err_no": 0},
    ]
    return {"shop_order_detail": order, "decrypt_infos": plain}


def suning_order() -> dict[str, Any]:
    line = {
        "orderLineNumber": "30000001",
        "orderLineStatus": "10",
        "productCode": "120000001",
        "itemCode": "A001",
        "productName": "T恤",
        "saleNum": "2.0",
        "unitPrice": "59.00000",
        "vouchertotalMoney": "10.00",
        "payAmount": "116.00",
        "transportFee": "8.00",
        "returnOrderFlag": "0",
        "expressno": "",
    }
    order = {
        "orderCode": "3000000117",
        "orderTotalStatus": "10",
        "orderSaleTime": "2026-11-11 00:00:03",
        "customerName": "王小明",
        "mobNum": "13812345678",
        "provinceName": "上海市",
        "cityName": "上海市",
        "districtName": "杨浦区",
        "customerAddress": "上海市上海市杨浦区江浦路1号",
        "userName": "buyer",
        "payType": "在线支付",
        "buyerOrdRemark": "",
        "sellerOrdRemark": "",
        "invoiceType": "02",
        "invoice": "王小明",
        "orderDetail": [line],
    }
    return {"order": order, "asked_at": "2026-11-11T00:02:00+08:00"}
